"""Jobs of the Python lorchestra. The first is the example of its README, to the letter."""
import logging
from lorchestra.stack_clients.event_client import emit

logger = logging.getLogger(__name__)

def extract_gmail(bq_client, account=None, since=None, until=None):
    """Extract emails from Gmail."""
    logger.info(f"Extracting Gmail for account={account}")

    emit(
        bq_client=bq_client,
        event_type="extraction.started",
        source="my_package/extract_gmail",
        data={"account": account, "since": since}
    )

    try:
        # Extraction logic
        emails = fetch_emails(account, since, until)

        emit(
            bq_client=bq_client,
            event_type="extraction.completed",
            source="my_package/extract_gmail",
            data={"records_count": len(emails)}
        )

        logger.info(f"Extracted {len(emails)} emails")

    except Exception as e:
        emit(
            bq_client=bq_client,
            event_type="extraction.failed",
            source="my_package/extract_gmail",
            data={"error": type(e).__name__}
        )
        raise


def fetch_emails(account, since, until):
    if account == "nobody":
        try:
            return {}["anna@example.com"]
        except KeyError as error:
            raise ValueError("no mail for anna@example.com") from error
    return ["one", "two"]


def canonicalize(bq_client, **kwargs):
    """Canonicalize.

    Emits what it was given.
    """
    emit("arguments.seen", kwargs, "here", bq_client, schema_ref="arguments/1", correlation_id="c-1", subject_id="s-1")


def decorated(function):
    def inner(bq_client, **kwargs):
        return function(bq_client, **kwargs)

    inner.__doc__ = function.__doc__
    return inner


def work(bq_client, **kwargs):
    """Made by a decorator."""
    print("working")


wrapped = decorated(work)
