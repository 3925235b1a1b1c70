//! `steadfast serve --take-over`: asks the process that runs now for its journal and its listeners.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::failure::CliError;
use super::operations::{OperatorClient, connect};
use crate::config::Config;
use crate::fs::RealFs;
use crate::journal;
use crate::model::NodeId;
use crate::proto::{GetStatusRequest, HandOverRequest, HandOverResponse};
use crate::serve::{self, Listeners, ServeError};

/// How long the other process may take with everything: its drain, its journal and its store.
const ANSWER: Duration = Duration::from_secs(100);

/// How long an address may stay taken after the other process has said that it lets go of it.
const RELEASE: Duration = Duration::from_secs(10);

/// How often is tried to bind.
const TRY: Duration = Duration::from_millis(2);

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It cannot be said whom to ask.
    #[error("--take-over needs the address of the running process: give --operations-listen with its port")]
    NoAddress,
    /// The process that answers keeps another journal.
    #[error(
        "the server at {address} keeps the journal of node {theirs}, but {dir} holds {ours}: give --data-dir (or \
         journal.dir) the directory that the running server uses"
    )]
    OtherJournal {
        /// Who was asked.
        address: SocketAddr,
        /// Its node.
        theirs: String,
        /// The directory here.
        dir: String,
        /// What is in it.
        ours: String,
    },
    /// The journal here cannot be looked at.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The running process refused, or could not be asked.
    #[error("the server at {address} did not hand over: {error}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// What it said.
        error: CliError,
    },
    /// An address stayed taken.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// The listeners, taken over, and what the other process said. No answer: there was nobody to ask, or it ended
/// before it answered.
pub struct TakenOver {
    /// Bound.
    pub listeners: Listeners,
    /// What was handed over.
    pub answer: Option<HandOverResponse>,
}

/// Takes over from the process at the configured operations address. The data address is bound as soon as that
/// process lets go of it, so that callers wait rather than fail.
pub async fn take_over(config: &Config, token: Option<String>) -> Result<TakenOver, TakeOverError> {
    let address = config.server.operations_listen;
    if address.port() == 0 {
        return Err(TakeOverError::NoAddress);
    }
    // The same file names the callers of both.
    let token = match token {
        Some(token) => Some(token),
        None => serve::tokens(&config.server).map_err(ServeError::from)?.and_then(|tokens| tokens.first()),
    };
    let refused = |error| TakeOverError::Refused { address, error };
    let mut client = match connect(&format!("http://{address}"), token, Duration::from_secs(10)).await {
        Ok(client) => client,
        Err(CliError::Unreachable { message, .. }) => {
            tracing::warn!(%address, message, "there is no server to take over from; starting all the same");
            return Ok(TakenOver { listeners: Listeners::bind(&config.server)?, answer: None });
        }
        Err(error) => return Err(refused(error)),
    };
    let node = their_node(&mut client, config, address).await?;
    let request = HandOverRequest {
        node,
        drain_timeout: None,
        reason: "serve --take-over".to_owned(),
        owner: "steadfast".to_owned(),
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(ANSWER);
    tracing::info!(%address, "asking the running server to hand over");
    let asked = client.hand_over(request);
    let (answer, data) = tokio::join!(asked, bind_data(config));
    let answer = match answer {
        Ok(answer) => Some(answer.into_inner()),
        // It ended before it could answer: what it held is free, or the journal's lock will say so.
        Err(status) if status.code() == tonic::Code::Unavailable => {
            tracing::warn!(message = status.message(), "the running server ended without an answer");
            None
        }
        Err(status) => return Err(refused(CliError::read(&status))),
    };
    let listeners = bind_operations(data?, config).await?;
    if let Some(told) = &answer {
        tracing::info!(
            last_position = told.last_position,
            pending = told.pending,
            store_closed = told.store_closed,
            hung_threads = told.hung_threads,
            cut_off = told.cut_off,
            "taken over"
        );
    }
    Ok(TakenOver { listeners, answer })
}

/// The node to ask for, which must be the one whose journal is here.
async fn their_node(
    client: &mut OperatorClient,
    config: &Config,
    address: SocketAddr,
) -> Result<String, TakeOverError> {
    let mut request = tonic::Request::new(GetStatusRequest { site: String::new(), max_sites: 1 });
    request.set_timeout(Duration::from_secs(10));
    let status = client.get_status(request).await;
    let status =
        status.map_err(|status| TakeOverError::Refused { address, error: CliError::read(&status) })?;
    let theirs = status.into_inner().status.unwrap_or_default().node;
    let ours = journal::node_of(&RealFs, &config.journal.dir)?;
    if ours.as_ref().map(NodeId::to_string).as_deref() == Some(theirs.as_str()) {
        return Ok(theirs);
    }
    let ours = ours.map_or_else(|| "no journal".to_owned(), |node| format!("that of node {node}"));
    Err(TakeOverError::OtherJournal { address, theirs, dir: config.journal.dir.display().to_string(), ours })
}

/// Binds the data address as soon as it is free, for as long as the other process may take.
async fn bind_data(config: &Config) -> Result<std::net::TcpListener, ServeError> {
    retried(ANSWER, || Listeners::bind_data(&config.server)).await
}

async fn bind_operations(data: std::net::TcpListener, config: &Config) -> Result<Listeners, ServeError> {
    let mut data = Some(data);
    retried(RELEASE, || Listeners::complete(&mut data, &config.server)).await
}

/// Tries until it works, the time is over, or it is not because the address is taken.
async fn retried<T>(
    limit: Duration,
    mut bind: impl FnMut() -> Result<T, ServeError>,
) -> Result<T, ServeError> {
    let until = Instant::now() + limit;
    loop {
        match bind() {
            Err(ServeError::Bind { error, .. })
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until =>
            {
                tokio::time::sleep(TRY).await;
            }
            result => return result,
        }
    }
}
