//! `steadfast completions`: the shell fills in commands and options.

use clap::Args;

use super::exit::Exit;
use super::failure::CliError;

/// The command line of `steadfast completions`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(steadfast completions bash)
  steadfast completions zsh > ~/.zfunc/_steadfast
  steadfast completions fish > ~/.config/fish/completions/steadfast.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Runs the command. `root` is the whole command line.
pub fn run(args: &CompletionsArgs, mut root: clap::Command) -> Result<Exit, CliError> {
    // Into memory first: the generator panics when a pipe is closed.
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut root, "steadfast", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(Exit::Ok)
}
