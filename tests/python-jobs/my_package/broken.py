import nothing_has_this_name


def job(bq_client, **kwargs):
    """A module that cannot be imported can still be listed."""
