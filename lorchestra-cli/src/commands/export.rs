//! `export`: a Kubernetes Indexed Job or a Cloud Run job that runs the windows of a plan file. Written from the plan alone; talks to no cluster.
//!
//! Each pod or task runs `run-window` with the index and attempt that the platform puts into its environment. Claims are in a directory that
//! all of them mount, because both platforms may start an index more than once.

use super::schedule::containers::{CONTAINER_SECURITY, POD_SECURITY, Platform, resource, variables};
use super::schedule::environment::{Environment, HOME, check_delivery, left_out};
use super::schedule::portable::{note_of, secret_variables};
use super::schedule::{self, MARGIN};
use crate::config::job_key;
use crate::exit::Code;
use crate::failure::CommandError;
use crate::printer::Printer;
use crate::settings::Settings;
use clap::{ArgGroup, Args};
use lorchestra_core::group::plan_file::PlanFile;
use lorchestra_core::plan::retries::LONGEST_WAIT;
use lorchestra_core::plan::source::Source;
use lorchestra_core::plan::{Retries, duration};
use lorchestra_core::store::short_id;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Printed for both platforms: the plan has the sha256 of its libraries.
const IMAGE: &str = "The image needs the plan's libraries, the same files, in /plugins: docs/guides/install.md, Container image.";
/// Where pods and tasks mount the shared directory.
const SHARED: &str = "/shared";
/// Maximum size of a plan in a ConfigMap: below Kubernetes' limit of 1 MiB with the text around it.
const MAX_CONFIG_MAP: u64 = 700 << 10;
/// Maximum number of tasks of a job of Cloud Run.
const MAX_TASKS: usize = 10_000;
/// Time limit of a task of Cloud Run whose window has none.
const UNLIMITED: Duration = Duration::from_secs(3600);

pub(super) const EXAMPLES: &str = "Examples:
  lorchestra backfill ingester extract_gmail --from 2024-01-01 --to 2025-01-01 --every 1d --plan plan.jsonl
  lorchestra export plan.jsonl --k8s --image registry.example.org/lorchestra:1 -j 20
  lorchestra export plan.jsonl --cloud-run --image europe-docker.pkg.dev/p/r/lorchestra:1 --nfs 10.0.0.2:/lorchestra";

pub(super) const RULE: &str = "The files are checked against the schemas of the API, and were not run on a cluster by the tests of lorchestra. \
The image contains lorchestra and, in /plugins, the libraries with which the plan was made (xtask/dist/plugins.Dockerfile makes one). \
The plan is in a ConfigMap (Kubernetes, up to 700 KiB) or a file of the shared directory, not a URL. \
For a job on a schedule, see schedule print --k8s.";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("platform").required(true))]
pub(crate) struct Export {
    /// The plan, written by `backfill --plan`
    plan: PathBuf,
    /// Print a Kubernetes Indexed Job
    #[arg(long, group = "platform")]
    k8s: bool,
    /// Print a Cloud Run job
    #[arg(long, group = "platform", requires = "nfs")]
    cloud_run: bool,
    /// Container image with lorchestra and the libraries
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Maximum number of windows that run at once
    #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = crate::values::number::<u32>(1..))]
    jobs: u32,
    /// Name of the job [default: lorchestra-PACKAGE-JOB-GROUP]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Kubernetes: volume claim (ReadWriteMany) with the shared directory
    #[arg(long, value_name = "NAME", default_value = "lorchestra-shared", conflicts_with = "cloud_run")]
    shared_claim: String,
    /// Cloud Run: NFS export with the shared directory (not a bucket: claims need link(2))
    #[arg(long, value_name = "SERVER:/PATH", value_parser = nfs, conflicts_with = "k8s")]
    nfs: Option<(String, String)>,
    /// Google service account for workload identity
    #[arg(long, value_name = "EMAIL")]
    service_account: Option<String>,
}

fn nfs(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((server, path)) if !server.is_empty() && path.starts_with('/') => Ok((server.to_owned(), path.to_owned())),
        _ => Err("write SERVER:/PATH".to_owned()),
    }
}

/// What both platforms need to know about the plan.
struct Windows {
    name: String,
    group: String,
    count: usize,
    /// How long a window may take to end after SIGTERM.
    stop_within: Duration,
    /// How long all attempts of a window may take together.
    timeout: Option<Duration>,
    /// Environment variables, as YAML.
    environment: String,
    /// The configured time to wait for delivery.
    delivery_timeout: Option<String>,
}

pub(super) fn run(command: &Export, settings: &Settings, printer: &mut Printer) -> Result<Code, CommandError> {
    let plan = PlanFile::read(&command.plan)?;
    let first = plan.member(0)?.spec;
    let count = plan.len();
    let name =
        command.name.clone().unwrap_or_else(|| format!("lorchestra-{}-{}-{}", first.package, first.job, short_id(&plan.group)));
    let name = resource(&name);
    // A window is complete only when its events are delivered.
    check_delivery(settings)?;
    let secrets = secret_variables(&first);
    let environment = Environment::read(settings)?.of_container(settings);
    let (platform, indent) = if command.k8s { (Platform::Kubernetes, 12) } else { (Platform::CloudRun, 16) };
    let windows = Windows {
        environment: variables(platform, &secrets, &name, &environment.variables, indent),
        delivery_timeout: settings
            .configured
            .iter()
            .any(|key| key == "delivery.timeout")
            .then(|| duration::show(settings.delivery_timeout)),
        group: plan.group.clone(),
        name,
        count,
        stop_within: first.grace + settings.delivery_timeout + MARGIN,
        timeout: first.timeout.map(|timeout| {
            let Retries { limit, wait, .. } = first.retries;
            (timeout + first.grace).saturating_mul(limit + 1) + wait.max(LONGEST_WAIT).saturating_mul(limit)
        }),
    };
    if command.k8s {
        kubernetes(command, &windows, printer)?;
    } else {
        cloud_run(command, &windows, printer)?;
    }
    for (param, source) in &first.secrets {
        if matches!(source, Source::File(_) | Source::Credential(_)) {
            printer.note(format_args!("The container needs {source} for the secret --{}.", param.replace('_', "-")));
        }
    }
    environment.notes.iter().for_each(|note| printer.note(note));
    // The plan has the policies, parameters and sources of secrets.
    let ping = job_key(&format!("{}/{}", first.package, first.job), "ping");
    if let Some(note) = note_of(&left_out(settings, |key| key == ping)) {
        printer.note(note);
    }
    Ok(Code::Success)
}

/// The arguments of the container, and the directory of the plan.
fn arguments(plan_dir: &str, engine: &str, flags: &[&str], windows: &Windows) -> String {
    let plan = format!("{plan_dir}/plan.jsonl");
    // The root of the file system is there wherever it is mounted; nothing must be created first.
    let words = ["run-window", "--quiet", "--engine", engine, "--plan", &plan, "--claims", SHARED];
    let timeout = windows.delivery_timeout.iter().flat_map(|timeout| ["--delivery-timeout", timeout]);
    json!(words.into_iter().chain(flags.iter().copied()).chain(timeout).collect::<Vec<_>>()).to_string()
}

fn kubernetes(command: &Export, windows: &Windows, printer: &mut Printer) -> Result<(), CommandError> {
    let Windows { name, count, environment, .. } = windows;
    let io =
        |error: std::io::Error| CommandError::refused(Code::Usage, &command.plan.display().to_string(), &command.plan, &error);
    let is_small = std::fs::metadata(&command.plan).map_err(io)?.len() <= MAX_CONFIG_MAP;
    let plan_dir = if is_small { "/plan".to_owned() } else { format!("{SHARED}/{}", windows.group) };
    let mut text = String::new();
    if is_small {
        let plan = std::fs::read_to_string(&command.plan).map_err(io)?;
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}-plan}}\nimmutable: true\ndata:\n  plan.jsonl: {}\n---\n",
            json!(plan)
        );
    }
    let account = match &command.service_account {
        Some(email) => {
            let _ = write!(
                text,
                "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  annotations: {{iam.gke.io/gcp-service-account: {}}}\n---\n",
                json!(email)
            );
            format!("      serviceAccountName: {name}\n")
        }
        None => String::new(),
    };
    let [failed, usage, timeout, config, plugin] =
        [Code::Failed, Code::Usage, Code::Timeout, Code::Config, Code::Plugin].map(Code::number);
    let args = arguments(&plan_dir, "k8s", &["--index-from", "JOB_COMPLETION_INDEX", "--attempt-from", "POD_NAME"], windows);
    let (mount, volume) = if is_small {
        (
            "\n            - {name: plan, mountPath: /plan, readOnly: true}",
            format!("\n        - name: plan\n          configMap: {{name: {name}-plan}}"),
        )
    } else {
        ("", String::new())
    };
    let _ = write!(
        text,
        r#"apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: lorchestra, lorchestra/group: {group}}}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {parallel}
  # Start an index again that ended for a temporary reason (not delivered, state not writable, killed).
  backoffLimitPerIndex: 3
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      # The node was drained or the pod preempted: start another one.
      - action: Ignore
        onPodConditions: [{{type: DisruptionTarget, status: "True"}}]
      # {usage}: usage, {config}: configuration, {plugin}: plugin unusable. The same for every index.
      - action: FailJob
        onExitCodes: {{containerName: lorchestra, operator: In, values: [{usage}, {config}, {plugin}]}}
      # {failed}: the job failed (use backfill --retries), {timeout}: timeout. The other indexes go on.
      - action: FailIndex
        onExitCodes: {{containerName: lorchestra, operator: In, values: [{failed}, {timeout}]}}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: {grace}
{account}      securityContext: {POD_SECURITY}
      containers:
        - name: lorchestra
          image: {image}
          command: [lorchestra]
          args: {args}
          env:
            - name: HOME
              value: {HOME}
            - name: POD_NAME
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
{environment}          securityContext: {CONTAINER_SECURITY}
          volumeMounts:
            - {{name: state, mountPath: {HOME}}}
            - {{name: tmp, mountPath: /tmp}}
            - {{name: shared, mountPath: {SHARED}}}{mount}
      volumes:
        # A window's events are delivered before it is claimed, so its store may go with its pod.
        - name: state
          emptyDir: {{}}
        - name: tmp
          emptyDir: {{}}
        - name: shared
          persistentVolumeClaim: {{claimName: {claim}}}{volume}
"#,
        group = windows.group,
        parallel = command.jobs,
        grace = windows.stop_within.as_secs(),
        image = json!(command.image),
        claim = json!(command.shared_claim),
    );
    printer.line(text.trim_end());
    printer.note("Not run on a cluster here. To start: kubectl apply -f FILE");
    printer.note(format_args!("The volume claim {} needs ReadWriteMany and link(2) (NFS, Filestore).", command.shared_claim));
    printer.note(IMAGE);
    if !is_small {
        printer.note(format_args!("Copy the plan there: {}/plan.jsonl", windows.group));
    }
    Ok(())
}

fn cloud_run(command: &Export, windows: &Windows, printer: &mut Printer) -> Result<(), CommandError> {
    let Windows { name, count, environment, .. } = windows;
    if *count > MAX_TASKS {
        let what = format!("the plan has {count} windows, and a job of Cloud Run has at most {MAX_TASKS} tasks");
        return Err(CommandError::new(Code::Usage, what).hint("make several plans, each with a part of the range"));
    }
    let (server, path) = command.nfs.clone().unwrap_or_default();
    let account = command.service_account.as_ref().map(|email| format!("          serviceAccountName: {}\n", json!(email)));
    // Cloud Run's own limit ends a task without SIGTERM's grace, so it comes after lorchestra's.
    let seconds = windows.timeout.map_or(UNLIMITED, |timeout| timeout + windows.stop_within).as_secs();
    let plan_dir = format!("{SHARED}/{}", windows.group);
    let attempt = ["--attempt-from", "CLOUD_RUN_EXECUTION", "--attempt-from", "CLOUD_RUN_TASK_ATTEMPT"];
    let flags = [&["--index-from", "CLOUD_RUN_TASK_INDEX"], &attempt[..]].concat();
    printer.line(format_args!(
        r#"apiVersion: run.googleapis.com/v1
kind: Job
metadata:
  name: {name}
  labels: {{app: lorchestra}}
spec:
  template:
    spec:
      taskCount: {count}
      parallelism: {parallel}
      template:
        spec:
          # A window that is complete is not run again, so a retry costs nothing.
          maxRetries: 3
          timeoutSeconds: "{seconds}"
{account}          containers:
            - image: {image}
              command: [lorchestra]
              args: {args}
              env:
                - name: HOME
                  value: {HOME}
{environment}              resources:
                limits: {{cpu: "1", memory: 1Gi}}
              volumeMounts:
                - {{name: shared, mountPath: {SHARED}}}
          volumes:
            - name: shared
              nfs: {{server: {server}, path: {path}}}"#,
        parallel = command.jobs,
        account = account.unwrap_or_default(),
        image = json!(command.image),
        args = arguments(&plan_dir, "cloud-run", &flags, windows),
        server = json!(server),
        path = json!(path),
    ));
    printer.note(format_args!("Not run on Cloud Run here. To start: gcloud run jobs replace FILE --region REGION"));
    printer.note(format_args!("then: gcloud run jobs execute {name} --region REGION"));
    printer.note(format_args!("Copy the plan to the NFS export first: {}/plan.jsonl", windows.group));
    printer.note(IMAGE);
    printer.note(format_args!("{} (run-window waits for that).", schedule::EPHEMERAL));
    if windows.timeout.is_none() {
        let hours = UNLIMITED.as_secs() / 3600;
        printer.note(format_args!(
            "The windows have no time limit, so Cloud Run ends a task after {hours} h: backfill --timeout sets one."
        ));
    }
    Ok(())
}
