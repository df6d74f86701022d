# The image of `Dockerfile` with plugin libraries, as `lorchestra export` and `schedule print --k8s` expect it. DIR/plugins has the
# libraries; those of a plan must be the files with which the plan was made, because the plan has their sha256:
#
#     docker build -f xtask/dist/plugins.Dockerfile -t registry.example.org/lorchestra:1 DIR
#
# Libraries that the jobs' user could change are refused, hence the owner and the mode. The check loads each library once, so one that needs
# a newer C library than the image has fails here.

FROM lorchestra
COPY --chown=root:root --chmod=0644 plugins/*.so /plugins/
RUN lorchestra plugins check /plugins/*.so
