//! Who may call the operations listener: a file of names and tokens.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::{Choice, ConstantTimeEq as _};

/// Bytes of a token: long enough not to be guessed, short enough for a header.
const LEAST: usize = 16;
const MOST: usize = 512;

/// Tokens of a file.
const MANY: usize = 1_000;

/// Why a token file is not used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("the token file {path} cannot be read: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read it.
    #[error("the token file {path} can be read by everybody: take that away with `chmod o-rwx {path}`")]
    Open {
        /// Which.
        path: PathBuf,
    },
    /// A line of it is wrong. The line itself is not shown: it may hold a token.
    #[error("line {line} of the token file {path}: {problem}")]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is nothing in it.
    #[error("the token file {path} holds no token: write lines like `alice:TOKEN`")]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// A name, and the token that stands for it.
type Named = (Arc<str>, Box<[u8]>);

/// The tokens, each with the name that stands for whoever has it.
#[derive(Clone)]
pub struct Tokens(Arc<[Named]>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name).collect();
        f.debug_tuple("Tokens").field(&names).finish()
    }
}

impl Tokens {
    /// Reads a file of lines `name:token`; empty lines and those that begin with `#` count for nothing. A file that
    /// everybody may read is refused.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let read = |error| TokenError::Read { path: path.to_owned(), error };
        if std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o007 != 0 {
            return Err(TokenError::Open { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, TokenError> {
        let mut tokens: Vec<Named> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem| TokenError::Line { path: path.to_owned(), line: at + 1, problem };
            let (name, token) = line.split_once(':').ok_or_else(|| wrong("write it as name:token"))?;
            let (name, token) = (name.trim(), token.trim());
            if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
                return Err(wrong("the name must have 1 to 100 bytes, and no control characters"));
            }
            if !(LEAST..=MOST).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(wrong("the token must have 16 to 512 printable characters without blanks"));
            }
            if tokens.iter().any(|(_, other)| **other == *token.as_bytes()) {
                return Err(wrong("the token is there twice"));
            }
            if tokens.len() == MANY {
                return Err(wrong("there are more than 1000 tokens"));
            }
            tokens.push((name.into(), token.as_bytes().into()));
        }
        if tokens.is_empty() {
            return Err(TokenError::Empty { path: path.to_owned() });
        }
        Ok(Self(tokens.into()))
    }

    /// The first token, for a process that asks its predecessor with the same file.
    pub fn first(&self) -> Option<String> {
        self.0.first().and_then(|(_, token)| String::from_utf8(token.to_vec()).ok())
    }

    /// Whose token the headers carry, as `authorization: Bearer TOKEN`. How long it takes does not depend on how much
    /// of a token was guessed, nor on which one it is.
    pub fn name(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        let given = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, given) = given.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let given = given.trim_ascii();
        let mut found = None;
        for (name, token) in self.0.iter() {
            let same: Choice = token.ct_eq(given);
            if bool::from(same) {
                found = Some(Arc::clone(name));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(text: &str) -> Result<Tokens, TokenError> {
        Tokens::parse(Path::new("tokens"), text)
    }

    fn name(tokens: &Tokens, header: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
        tokens.name(&headers).map(|name| name.to_string())
    }

    #[test]
    fn a_token_gives_its_name_and_nothing_else_does() {
        let tokens = parse("# people\nalice: 0123456789abcdef \n\nbob:with:colon:0123456789\n").unwrap();
        assert_eq!(name(&tokens, "Bearer 0123456789abcdef").as_deref(), Some("alice"));
        assert_eq!(name(&tokens, "bearer with:colon:0123456789").as_deref(), Some("bob"));
        for header in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer ",
            "0123456789abcdef",
            "Basic x",
            "",
        ] {
            assert_eq!(name(&tokens, header), None, "{header}");
        }
        assert_eq!(tokens.name(&HeaderMap::new()), None);
        assert!(!format!("{tokens:?}").contains("0123"));
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        for (text, line) in [
            ("alice", 1),
            ("a:0123456789abcdef\nb:short", 2),
            (":0123456789abcdef", 1),
            ("a:0123456789abcdef\nb:0123456789abcdef", 2),
            ("a:0123456789 abcdef", 1),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line} of the token file tokens: ")), "{error}");
            assert!(!error.contains("0123"), "{error}");
        }
        assert!(matches!(parse("# nobody\n"), Err(TokenError::Empty { .. })));
    }

    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "alice:0123456789abcdef\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(matches!(Tokens::load(&path), Err(TokenError::Open { .. })));
        mode(0o640);
        assert!(Tokens::load(&path).is_ok());
        assert!(matches!(Tokens::load(&dir.path().join("none")), Err(TokenError::Read { .. })));
    }
}
