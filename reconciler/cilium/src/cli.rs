//! The command line. Every command here works; what is not built is absent.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// eBPF networking, load balancing and policy: one config file, one loop.
#[derive(Debug, Parser)]
#[command(name = "cilium", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub source: ConfigSource,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigSource {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/cilium/cilium.toml")]
    pub config: PathBuf,
    /// Overrides one key: `--set routing.mode=native`. May be repeated.
    #[arg(long = "set", global = true, value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `-o text|json`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Form {
    /// Form of the output.
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Output,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the loop until SIGTERM; the datapath stays in place when it ends.
    Agent,
    /// Passes until the plan is empty or nothing moves any more, then ends (exit 0, 1 or 3).
    Apply,
    /// What the next pass would do; changes nothing (exit 0: nothing, 2: changes pending, 1: error).
    Plan(PlanArgs),
    /// Removes everything of this project from the host, by the same loop with an empty wish.
    Destroy(DestroyArgs),
    /// What changed, when and why.
    History(HistoryArgs),
    /// Health, derived from what was observed (exit 0: healthy, 1: not).
    Status(StatusArgs),
    /// The configuration: check, show, schema.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Steps between versions of the configuration document.
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Policies: validate.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Endpoints of this node.
    #[command(subcommand)]
    Endpoint(ListOrGet),
    /// Security identities.
    #[command(subcommand)]
    Identity(ListOrGet),
    /// Addresses and the identities behind them.
    #[command(subcommand)]
    Ip(ListOnly),
    /// Nodes.
    #[command(subcommand)]
    Node(ListOnly),
    /// Services.
    #[command(subcommand)]
    Service(ListOrGet),
    /// Pinned maps as they are.
    #[command(subcommand)]
    Map(MapCommand),
    /// What the kernel holds.
    #[command(subcommand)]
    Bpf(BpfCommand),
    /// Events of the datapath as they happen.
    Monitor(MonitorArgs),
    /// Metrics of the running agent.
    #[command(subcommand)]
    Metrics(ListOnly),
    /// The version.
    Version(Form),
}

/// `policy …`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// What is wrong with objects, offline: for review and CI (exit 0: nothing, 1: errors).
    Validate(ValidateArgs),
}

/// Parameters of `policy validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Manifests, folders of them, or `-` for standard input.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Exit 1 also for warnings.
    #[arg(long)]
    pub strict: bool,
    /// Form of the output.
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Report,
}

/// Form of what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For tools that show findings in code (SARIF 2.1.0).
    Sarif,
}

/// Parameters of `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Form.
    #[command(flatten)]
    pub form: Form,
    /// Compares with what this older configuration compiles to; needs neither root nor a kernel.
    #[arg(long, value_name = "OLD.toml", conflicts_with = "observed")]
    pub against: Option<PathBuf>,
    /// Compares with nothing (`none`) instead of this host; needs neither root nor a kernel.
    #[arg(long, value_name = "none")]
    pub observed: Option<String>,
    /// Reads the manifests from this folder.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Exit 1 also for problems with objects.
    #[arg(long)]
    pub strict: bool,
}

/// Parameters of `destroy`.
#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Only says what would be removed.
    #[arg(long)]
    pub plan: bool,
    /// Also while pods are attached: they lose their network.
    #[arg(long)]
    pub with_pods: bool,
    /// Form.
    #[command(flatten)]
    pub form: Form,
}

/// Parameters of `history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// How many of the last plans.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub last: usize,
    /// Form.
    #[command(flatten)]
    pub form: Form,
}

/// Parameters of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Lists problems and kinds.
    #[arg(long)]
    pub verbose: bool,
    /// Waits until healthy, at most this many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    pub wait: Option<u64>,
    /// Form.
    #[command(flatten)]
    pub form: Form,
}

/// `config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Validates; every finding with file:line:column.
    Check,
    /// The effective configuration, with where each value came from.
    Show(Form),
    /// The JSON schema.
    Schema,
}

/// `migrate …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// At which version the document is.
    Status(Form),
    /// What `up` would do.
    Plan(Form),
    /// To the newest version, or to V.
    Up(MigrateArgs),
    /// Back to V.
    Down(MigrateArgs),
}

/// Parameters of `migrate up` and `down`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The version to reach.
    #[arg(long, value_name = "V")]
    pub to: Option<u32>,
    /// Only shows the document that would be written.
    #[arg(long)]
    pub dry_run: bool,
    /// Form.
    #[command(flatten)]
    pub form: Form,
}

/// `… list` and `… get ID`.
#[derive(Debug, Subcommand)]
pub(crate) enum ListOrGet {
    /// All.
    List(Form),
    /// One, by number.
    Get {
        /// Number.
        id: u32,
        /// Form.
        #[command(flatten)]
        form: Form,
    },
}

/// `… list`.
#[derive(Debug, Subcommand)]
pub(crate) enum ListOnly {
    /// All.
    List(Form),
}

impl ListOnly {
    /// The form asked for.
    pub(crate) fn form(&self) -> Form {
        let Self::List(form) = self;
        *form
    }
}

/// `map …`.
#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// All pinned maps.
    List(Form),
    /// The rows of one, by its name or the name users of Cilium know.
    Get {
        /// Name.
        name: String,
        /// Form.
        #[command(flatten)]
        form: Form,
    },
}

/// `bpf …`.
#[derive(Debug, Subcommand)]
pub(crate) enum BpfCommand {
    /// Addresses and prefixes.
    #[command(subcommand)]
    Ipcache(ListOnly),
    /// Local endpoints.
    #[command(subcommand)]
    Endpoint(ListOnly),
    /// Policy rows.
    #[command(subcommand)]
    Policy(ListOnly),
    /// Frontends and backends.
    #[command(subcommand)]
    Lb(LbCommand),
    /// Connections.
    #[command(subcommand)]
    Ct(ListOnly),
    /// Masquerading.
    #[command(subcommand)]
    Nat(ListOnly),
    /// Fragmented datagrams.
    #[command(subcommand)]
    Frag(ListOnly),
    /// Which prefixes are behind which node.
    #[command(subcommand)]
    Tunnel(ListOnly),
    /// Packet counters.
    #[command(subcommand)]
    Metrics(ListOnly),
    /// Programs.
    #[command(subcommand)]
    Prog(ListOnly),
    /// Maps.
    #[command(subcommand)]
    Map(ListOnly),
}

/// `bpf lb …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LbCommand {
    /// Frontends with the backends that new connections go to, or one of the maps.
    List(LbArgs),
}

/// Parameters of `bpf lb list`.
#[derive(Debug, Args)]
pub(crate) struct LbArgs {
    /// Frontends alone.
    #[arg(long, group = "what")]
    pub frontends: bool,
    /// Backends by number.
    #[arg(long, group = "what")]
    pub backends: bool,
    /// Frontends by the number that replies find them by.
    #[arg(long, group = "what")]
    pub revnat: bool,
    /// Clients that keep their backend.
    #[arg(long, group = "what")]
    pub affinity: bool,
    /// Sources that frontends serve, or do not serve.
    #[arg(long, group = "what")]
    pub source_ranges: bool,
    /// The Maglev table of the service with this number.
    #[arg(long, group = "what", value_name = "ID")]
    pub maglev: Option<u16>,
    /// Form.
    #[command(flatten)]
    pub form: Form,
}

/// Parameters of `monitor`.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Only these types; may be repeated.
    #[arg(short = 't', long = "type", value_enum)]
    pub types: Vec<EventType>,
    /// Numbers and interfaces too.
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Form: json gives one event a line.
    #[command(flatten)]
    pub form: Form,
}

/// Types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventType {
    /// Dropped packets.
    Drop,
    /// Packets at observation points.
    Trace,
    /// Verdicts of policy.
    PolicyVerdict,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::fmt::Write;

    /// `docs/commands.md`, from what clap knows.
    fn markdown(command: &clap::Command, path: &str, out: &mut String) {
        let path = format!("{path}{}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        if command.get_subcommands().next().is_none() {
            let _ = writeln!(out, "## `{path}`\n\n{about}\n");
            let arguments = command.get_arguments().filter(|a| !a.is_global_set() && a.get_id() != "help");
            for argument in arguments.filter(|a| a.get_id() != "version") {
                let name = match (argument.get_short(), argument.get_long()) {
                    (Some(short), Some(long)) => format!("-{short}, --{long}"),
                    (None, Some(long)) => format!("--{long}"),
                    _ => argument.get_id().as_str().to_uppercase(),
                };
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let values: Vec<String> =
                    argument.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
                let values = match (values.is_empty(), argument.get_action().takes_values()) {
                    (false, true) => format!(" (`{}`)", values.join("`, `")),
                    _ => String::new(),
                };
                let _ = writeln!(out, "* `{name}`: {help}{values}");
            }
            out.push('\n');
        }
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            markdown(sub, &format!("{path} "), out);
        }
    }

    #[test]
    fn generated_files_commands() {
        let mut text = "# Commands\n\nGenerated from the command line's definition. Every command takes `--config FILE` \
                        (default `/etc/cilium/cilium.toml`) and `--set TABLE.KEY=VALUE`.\n\n"
            .to_owned();
        markdown(&Cli::command(), "", &mut text);
        let text = text.trim_end().to_owned() + "\n";
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
        if std::env::var_os("CILIUM_BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let seen = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(seen == text, "docs/commands.md is out of date: run `make generate`");
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
