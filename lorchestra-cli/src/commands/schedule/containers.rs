//! A Kubernetes CronJob and a Cloud Run job. Texts are written as JSON strings, which are YAML too.

use super::cron::NIGHTLY;
use super::environment::{HOME, Variable};
use super::{File, Scheduled};
use crate::exit::Code;
use serde_json::json;

/// The rights of a pod and of its container: an ordinary user, and no file of the image may be changed.
pub(in crate::commands) const POD_SECURITY: &str =
    "{runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}";
pub(in crate::commands) const CONTAINER_SECURITY: &str =
    "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}";

/// Maximum length of a CronJob's name: Kubernetes appends 11 characters for each job.
const LONGEST: usize = 52;

/// Returns a file for each job, and notes.
pub(super) fn files(
    jobs: &[Scheduled],
    at: Option<&str>,
    image: &str,
    (k8s, environment): (bool, &[Variable]),
) -> (Vec<File>, Vec<String>) {
    let file = |job: &Scheduled| {
        let name = resource(&job.name);
        let text = match k8s {
            true => cron_job(job, &name, at, (image, environment)),
            false => cloud_run_job(job, &name, (image, environment)),
        };
        File { name: format!("{name}.yaml"), text }
    };
    let files = jobs.iter().map(file).collect();
    let mut notes = if k8s {
        vec![
            "To install: kubectl apply -f FILE".to_owned(),
            format!(
                "The volume claim lorchestra-state keeps the store: it needs a file system with locks, and ReadWriteOncePod or one node ({HOME})."
            ),
        ]
    } else {
        let name = jobs.first().map(|job| resource(&job.name)).unwrap_or_default();
        vec![
            format!("To install: gcloud run jobs replace {name}.yaml --region REGION"),
            format!("Then let Cloud Scheduler run it ({}): gcloud run jobs execute {name}", at.unwrap_or(NIGHTLY)),
            format!("{} (--require-delivery).", super::EPHEMERAL),
        ]
    };
    for job in jobs {
        notes.extend(job.portable.notes.iter().cloned());
        if !job.portable.variables.is_empty() {
            let names = job.portable.variables.join(", ");
            notes.push(match k8s {
                true => format!("The Secret {} needs these keys: {names}", resource(&job.name)),
                false => format!("Secret Manager needs these secrets: {names}"),
            });
        }
    }
    (files, notes)
}

/// A name for Kubernetes: letters, digits and `-`, and neither too long nor with `-` at an end.
pub(in crate::commands) fn resource(name: &str) -> String {
    let name: String = name.chars().map(|c| if c == '_' { '-' } else { c }).take(LONGEST).collect();
    name.trim_matches('-').to_owned()
}

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Platform {
    Kubernetes,
    CloudRun,
}

impl Platform {
    /// Returns the text of an argument or of a variable's value: Kubernetes replaces `$(NAME)` in both, and `$$` by `$`. Cloud Run replaces
    /// neither ("variable references are not supported in Cloud Run").
    fn literal(self, text: &str) -> String {
        let is_expanded = self == Self::Kubernetes && (text.contains("$(") || text.contains("$$"));
        if is_expanded { text.replace('$', "$$") } else { text.to_owned() }
    }

    fn args(self, words: &[String]) -> String {
        json!(words.iter().map(|word| self.literal(word)).collect::<Vec<_>>()).to_string()
    }
}

/// Variables of this environment, and secrets as variables: from a Kubernetes secret of the same name as the resource, or from the newest
/// version of a secret in Secret Manager of the same name as the variable.
pub(in crate::commands) fn variables(
    platform: Platform,
    secrets: &[String],
    name: &str,
    environment: &[Variable],
    indent: usize,
) -> String {
    let pad = " ".repeat(indent);
    let plain = environment.iter().filter(|variable| secrets.iter().all(|secret| secret != variable.name));
    let plain = plain
        .map(|Variable { name, value, .. }| format!("{pad}- name: {name}\n{pad}  value: {}\n", json!(platform.literal(value))));
    let secrets = secrets.iter().map(|variable| {
        // For Cloud Run, `key` is a version.
        let (name, key) = if platform == Platform::Kubernetes { (name, &**variable) } else { (&**variable, "latest") };
        format!("{pad}- name: {variable}\n{pad}  valueFrom: {{secretKeyRef: {{name: {name}, key: {key}}}}}\n")
    });
    plain.chain(secrets).collect()
}

fn cron_job(job: &Scheduled, name: &str, at: Option<&str>, (image, environment): (&str, &[Variable])) -> String {
    // No later attempt can fix these.
    let [usage, config, plugin] = [Code::Usage, Code::Config, Code::Plugin].map(Code::number);
    format!(
        r#"apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: lorchestra}}
spec:
  schedule: {schedule}
  # lorchestra does not run a job twice at the same time either, but needs no pod to find that out.
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 7
  jobTemplate:
    spec:
      # Use run-job --retries: it keeps all attempts in one run.
      backoffLimit: 0
      podFailurePolicy:
        rules:
          # The node was drained or the pod preempted: start another one.
          - action: Ignore
            onPodConditions: [{{type: DisruptionTarget, status: "True"}}]
          # {usage}: usage, {config}: configuration, {plugin}: plugin unusable.
          - action: FailJob
            onExitCodes: {{containerName: lorchestra, operator: In, values: [{usage}, {config}, {plugin}]}}
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: {grace}
          securityContext: {POD_SECURITY}
          containers:
            - name: lorchestra
              image: {image}
              command: [lorchestra]
              args: {args}
              env:
                - name: HOME
                  value: {HOME}
{variables}              securityContext: {CONTAINER_SECURITY}
              volumeMounts:
                - {{name: state, mountPath: {HOME}}}
                - {{name: tmp, mountPath: /tmp}}
          volumes:
            - name: state
              persistentVolumeClaim: {{claimName: lorchestra-state}}
            - name: tmp
              emptyDir: {{}}
"#,
        schedule = json!(at.unwrap_or(NIGHTLY)),
        image = json!(image),
        args = Platform::Kubernetes.args(&job.portable.args),
        grace = job.stop_within.as_secs(),
        variables = variables(Platform::Kubernetes, &job.portable.variables, name, environment, 16),
    )
}

fn cloud_run_job(job: &Scheduled, name: &str, (image, environment): (&str, &[Variable])) -> String {
    let mut words = job.portable.args.clone();
    if !words.iter().any(|word| word == "--require-delivery") {
        words.insert(1, "--require-delivery".to_owned());
    }
    // Cloud Run's own limit ends a task without SIGTERM's grace, so it comes after lorchestra's.
    let seconds = job.timeout.map_or(3600, |timeout| (timeout + job.stop_within).as_secs());
    format!(
        r#"apiVersion: run.googleapis.com/v1
kind: Job
metadata:
  name: {name}
spec:
  template:
    spec:
      parallelism: 1
      taskCount: 1
      template:
        spec:
          # Use run-job --retries: it keeps all attempts in one run.
          maxRetries: 0
          timeoutSeconds: "{seconds}"
          containers:
            - image: {image}
              command: [lorchestra]
              args: {args}
              env:
                - name: HOME
                  value: {HOME}
{variables}              resources:
                limits: {{cpu: "1", memory: 1Gi}}
"#,
        image = json!(image),
        args = Platform::CloudRun.args(&words),
        variables = variables(Platform::CloudRun, &job.portable.variables, name, environment, 16),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_would_expand_is_escaped() {
        for (text, escaped) in [
            ("a $5 b", "a $5 b"),
            ("$(HOME)", "$$(HOME)"),
            ("$$(HOME)", "$$$$(HOME)"),
            ("$$", "$$$$"),
            ("$1 $(HOME)", "$$1 $$(HOME)"),
        ] {
            assert_eq!(Platform::Kubernetes.literal(text), escaped);
            assert_eq!(Platform::CloudRun.literal(text), text);
        }
        let words = ["--query".to_owned(), "$(date)".to_owned()];
        assert_eq!(Platform::Kubernetes.args(&words), r#"["--query","$$(date)"]"#);
        let variable = [Variable { name: "LORCHESTRA_X", value: "$(HOME)/x".to_owned(), is_local: false }];
        let text = variables(Platform::Kubernetes, &[], "n", &variable, 2);
        assert_eq!(text, "  - name: LORCHESTRA_X\n    value: \"$$(HOME)/x\"\n");
    }

    #[test]
    fn names_are_valid_in_kubernetes() {
        assert_eq!(resource("lorchestra-ingester-extract_gmail"), "lorchestra-ingester-extract-gmail");
        let long = resource(&format!("lorchestra-{}-x", "p".repeat(40)));
        assert!(long.len() <= LONGEST && !long.ends_with('-'), "{long}");
    }
}
