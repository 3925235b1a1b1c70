//! What the commands for operators have in common: the operations address, the token, who asks and why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::connect::{channel, parse_timeout};
use super::failure::CliError;
use crate::proto::operator_service_client::OperatorServiceClient;

/// The operators' client.
pub type OperatorClient = OperatorServiceClient<InterceptedService<Channel, Bearer>>;

/// Adds the token to each call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Where operators call, and as whom.
#[derive(Args, Clone, Debug)]
pub struct OperatorArgs {
    /// The server's operations address
    #[arg(
        long,
        env = "STEADFAST_OPERATIONS_ADDR",
        default_value = "http://127.0.0.1:50052",
        value_name = "URL"
    )]
    pub addr: String,
    /// A file with the token (or the server's token file: its first token counts); see also `STEADFAST_TOKEN`
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How long one call may take, such as 10s or 500ms
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Print JSON, one object a line, also for errors (on standard error)
    #[arg(long)]
    pub json: bool,
}

/// Who asks for a change, and why.
#[derive(Args, Clone, Debug)]
pub struct CauseArgs {
    /// Why; it is logged
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who, where the server knows no tokens [default: the login name]
    #[arg(long, env = "STEADFAST_OWNER", value_name = "NAME")]
    pub owner: Option<String>,
}

/// The owner as given, or the login name.
pub fn owner(given: Option<&String>) -> String {
    let login = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    given.cloned().or_else(login).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

impl OperatorArgs {
    /// Connects. An error means that nothing was sent.
    pub async fn connect(&self) -> Result<OperatorClient, CliError> {
        connect(&self.addr, self.token()?, self.timeout).await
    }

    /// The token, if there is one.
    pub fn token(&self) -> Result<Option<String>, CliError> {
        token(self.token_file.as_deref())
    }

    /// A request with this call's deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// The token of a file, otherwise that of the environment.
pub fn token(file: Option<&Path>) -> Result<Option<String>, CliError> {
    let Some(path) = file else {
        return Ok(std::env::var("STEADFAST_TOKEN").ok().filter(|token| !token.is_empty()));
    };
    let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
    match first_token(&text) {
        Some(token) => Ok(Some(token.to_owned())),
        None => Err(CliError::Usage(format!("--token-file {}: there is no token in it", path.display()))),
    }
}

/// The first line that is neither empty nor a comment; of `name:token` the token.
fn first_token(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(line.split_once(':').map_or(line, |(_, token)| token.trim()))
}

/// Connects to the operators' service at `addr`.
pub async fn connect(
    addr: &str,
    token: Option<String>,
    timeout: Duration,
) -> Result<OperatorClient, CliError> {
    let bearer = match token {
        None => None,
        Some(token) => match format!("Bearer {token}").parse::<MetadataValue<Ascii>>() {
            Ok(mut value) => {
                value.set_sensitive(true);
                Some(value)
            }
            Err(_) => return Err(CliError::Usage("the token holds characters that no token has".to_owned())),
        },
    };
    let channel = channel(addr, timeout).await?;
    Ok(OperatorServiceClient::with_interceptor(channel, Bearer(bearer)).max_decoding_message_size(64 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_holds_a_token_or_names_and_tokens() {
        assert_eq!(first_token("# mine\n\n 0123456789abcdef \n"), Some("0123456789abcdef"));
        assert_eq!(first_token("alice: 0123456789abcdef\nbob:x"), Some("0123456789abcdef"));
        assert_eq!(first_token("# nothing\n"), None);
    }
}
