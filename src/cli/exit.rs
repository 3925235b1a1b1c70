//! Exit codes: what a script can rely on.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a write is kept.
    Ok = 0,
    /// The command line is wrong; nothing was sent.
    Usage = 2,
    /// Refused: bad data, or a condition that does not hold. The same again will be refused again.
    Refused = 65,
    /// There is no such profile, write or file.
    NotFound = 66,
    /// It is not known whether the write is kept, or something failed that should not.
    Unknown = 70,
    /// Reading or writing a local file failed.
    Io = 74,
    /// Not now: the server is not reachable, overloaded, or holds this back. A write is not kept.
    TryAgain = 75,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The help text after the options: the examples given, then the exit codes.
macro_rules! after_help {
    ($examples:literal) => {
        concat!(
            $examples,
            "\n\nExit codes:\n",
            "  0   done; a write is kept\n",
            "  2   the command line is wrong, nothing was sent\n",
            "  65  refused: bad data, or a condition that does not hold\n",
            "  66  no such profile, write or file\n",
            "  70  not known whether the write is kept (ask again with the same --request-id), or a fault\n",
            "  74  a local file could not be read or written\n",
            "  75  not now, try again later; a write is not kept"
        )
    };
}
pub(crate) use after_help;
