//! `steadfast serve`: the server.

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::options::ConfigOptions;
use super::{failed, log, misconfigured};
use crate::app::App;
use crate::config::Config;

/// Arguments of `steadfast serve`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast serve\n  \
    steadfast serve --data-dir /var/lib/steadfast --listen 0.0.0.0:50051\n\n\
    SIGTERM and SIGINT stop it in order: calls in flight are answered, everything accepted is kept.")]
pub struct ServeArgs {
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
        let app = match App::start(&config) {
            Ok(app) => app,
            Err(error) => return failed(&error),
        };
        banner(&app, &config);
        let ended_by = match runtime.block_on(wait(&app)) {
            Ok(ended_by) => ended_by,
            Err(error) => return failed(&error),
        };
        let fault = match ended_by {
            Ended::Signal(name) => {
                tracing::info!("{name}: draining");
                None
            }
            Ended::Fatal(why) => {
                tracing::error!("{why}; draining");
                Some(why)
            }
        };
        // A second signal does not wait for the drain.
        std::thread::spawn(move || {
            if runtime.block_on(any_signal()).is_ok() {
                tracing::warn!("a second signal: ending at once; everything accepted is kept");
                std::process::exit(1);
            }
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

enum Ended {
    Signal(&'static str),
    Fatal(String),
}

async fn wait(app: &App) -> std::io::Result<Ended> {
    let mut fatal = app.fatal();
    tokio::select! {
        name = any_signal() => Ok(Ended::Signal(name?)),
        why = fatal.wait_for(Option::is_some) => {
            let why = why.ok().and_then(|why| why.clone());
            Ok(Ended::Fatal(why.unwrap_or_else(|| "the upkeep thread ended".to_owned())))
        }
    }
}

async fn any_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
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
