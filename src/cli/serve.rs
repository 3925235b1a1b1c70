//! `steadfast serve`: the server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::options::ConfigOptions;
use super::take_over::take_over;
use super::{failed, log, misconfigured, operations};
use crate::app::{App, HandOverCall};
use crate::config::Config;

/// Arguments of `steadfast serve`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast serve\n  \
    steadfast serve --data-dir /var/lib/steadfast --listen 0.0.0.0:50051\n  \
    steadfast serve --take-over\n  \
    steadfast serve --take-over --store-dir /mnt/other/store\n\n\
    SIGTERM and SIGINT stop it in order: calls in flight are answered, everything accepted is kept.")]
pub struct ServeArgs {
    /// Ask the running process at the operations address to hand over its journal and its listeners first: a restart
    /// with a gap below a second, and the cure of a store that hangs inside the kernel
    #[arg(long)]
    pub take_over: bool,
    /// With --take-over: a file with the token for the running process [default: `STEADFAST_TOKEN`, or the first of
    /// `server.operations_tokens`]
    #[arg(long, value_name = "FILE", requires = "take_over")]
    pub token_file: Option<PathBuf>,
    /// What to load.
    #[command(flatten)]
    pub options: ConfigOptions,
}

impl ServeArgs {
    /// Serves until a signal, or until nothing can be accepted any more.
    pub fn run(&self) -> ExitCode {
        let config = match self.options.load() {
            Ok(effective) => effective.config,
            Err(error) => return misconfigured(&error),
        };
        log::start(&config.log);
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error),
        };
        let mut app = match self.start(&config, &runtime) {
            Ok(app) => app,
            Err(exit) => return exit,
        };
        // Before anybody is told that it can be called, and may want it to stop.
        let mut signals = match runtime.block_on(async { Signals::new() }) {
            Ok(signals) => signals,
            Err(error) => return failed(&error),
        };
        banner(&app, &config);
        let ended_by = runtime.block_on(wait(&mut app, &mut signals));
        let fault = match ended_by {
            Ended::Signal(name) => {
                tracing::info!("{name}: draining");
                None
            }
            Ended::Fatal(why) => {
                tracing::error!("{why}; draining");
                Some(why)
            }
            Ended::HandOver(call) => hand_over(app, call),
        };
        // A second signal does not wait for the drain.
        std::thread::spawn(move || {
            runtime.block_on(signals.next());
            tracing::warn!("a second signal: ending at once; everything accepted is kept");
            std::process::exit(1);
        });
        match (app.drain(), fault) {
            (Ok(()), None) => {
                tracing::info!("stopped; everything accepted is kept");
                ExitCode::SUCCESS
            }
            (Ok(()), Some(_)) => ExitCode::FAILURE,
            (Err(error), _) => failed(&error),
        }
    }
}

/// Gives everything to the process that asked, and ends.
fn hand_over(app: App, call: HandOverCall) -> ! {
    let (owner, reason) = (&call.request.cause.owner, &call.request.cause.reason);
    tracing::info!(owner, reason, "handing over: draining");
    let code = match app.hand_over(call) {
        Ok(done) => {
            tracing::info!(
                last_position = done.last_position,
                pending = done.pending,
                store_closed = done.store_closed,
                hung_threads = done.hung_threads,
                cut_off = done.cut_off,
                "handed over; everything accepted is kept"
            );
            0
        }
        Err(error) => {
            tracing::error!(%error, "could not hand over; everything acknowledged is kept");
            1
        }
    };
    // Threads that hang are not waited for.
    std::process::exit(code)
}

impl ServeArgs {
    fn start(&self, config: &Config, runtime: &tokio::runtime::Runtime) -> Result<App, ExitCode> {
        let failed = |error: &dyn std::error::Error| Err(failed(error));
        if !self.take_over {
            return App::start(config).or_else(|error| failed(&error));
        }
        let token = match operations::token(self.token_file.as_deref()) {
            Ok(token) => token,
            Err(error) => return failed(&error),
        };
        let taken = match runtime.block_on(take_over(config, token)) {
            Ok(taken) => taken,
            Err(error) => return failed(&error),
        };
        if taken.answer.is_some_and(|answer| !answer.store_closed) {
            tracing::warn!("the store was not closed: it is rebuilt unless it can be trusted all the same");
        }
        App::start_on(taken.listeners, config).or_else(|error| failed(&error))
    }
}

enum Ended {
    Signal(&'static str),
    Fatal(String),
    HandOver(HandOverCall),
}

async fn wait(app: &mut App, signals: &mut Signals) -> Ended {
    let mut fatal = app.fatal();
    tokio::select! {
        name = signals.next() => Ended::Signal(name),
        call = app.hand_over_asked() => Ended::HandOver(call),
        why = fatal.wait_for(Option::is_some) => {
            let why = why.ok().and_then(|why| why.clone());
            Ended::Fatal(why.unwrap_or_else(|| "the upkeep thread ended".to_owned()))
        }
    }
}

/// Those that end a server; from when this is made they no longer end it at once.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Within a runtime.
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Where it listens and how to try it, for people.
fn banner(app: &App, config: &Config) {
    let (data, operations) = (app.data_address, app.operations_address);
    let replayed = app.core().replayed;
    eprintln!("steadfast {} is ready", env!("CARGO_PKG_VERSION"));
    eprintln!("  data        {data}  (gRPC: steadfast.v1.AttributeService)");
    eprintln!("  operations  {operations}  (gRPC health, reflection; /metrics /healthz /readyz)");
    eprintln!("  kept in     {}", config.data_dir.display());
    if replayed.pending > 0 {
        eprintln!("  waiting     {} entries of the last run are being applied", replayed.pending);
    }
    eprintln!("  try         steadfast identify acme alice plan=pro --addr http://{data}");
    eprintln!("              grpcurl -plaintext {data} list");
}
