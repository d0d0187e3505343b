//! What can go wrong, in four kinds.

use std::error::Error as StdError;
use std::fmt;

/// Any error, as the SDK's own functions return it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a verb did not do what it was asked to.
///
/// A daemon that is missing is no error of [`save`](crate::save) and its sisters: they warn once, and the
/// recording goes on buffering, as it did before.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The daemon refused, or tried and failed.
    Verb {
        /// One word for programs: `exists`, `refused`, `not-found`, ...
        code: String,
        /// One line for people.
        message: String,
        /// What to do about it, or empty.
        hint: String,
    },
    /// There is no daemon, it cannot be started, or it does not answer.
    Unavailable {
        /// One line for people.
        message: String,
        /// What to do about it, or empty.
        hint: String,
    },
    /// The other side sent something that is no message.
    Protocol(String),
    /// The Rerun SDK could not save to the pipe, or could not flush.
    Sdk(BoxError),
}

impl Error {
    pub(crate) fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), hint: hint.into() }
    }

    /// The daemon's word for what went wrong, if it was the daemon who said so.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Verb { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What to do about it, or empty.
    pub fn hint(&self) -> &str {
        match self {
            Self::Verb { hint, .. } | Self::Unavailable { hint, .. } => hint,
            Self::Protocol(_) => "are the daemon and this program's rrd crate both up to date?",
            Self::Sdk(_) => "",
        }
    }

    /// Whether nothing can be had from the daemon as things are: it is missing, or speaks another protocol.
    pub(crate) fn is_no_daemon(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Protocol(_) => true,
            Self::Verb { code, .. } => code == "protocol",
            Self::Sdk(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verb { message, .. } | Self::Unavailable { message, .. } => out.write_str(message)?,
            Self::Protocol(found) => write!(out, "the daemon's answer is no message: {found}")?,
            Self::Sdk(error) => write!(out, "Rerun SDK: {error}")?,
        }
        match self.hint() {
            "" => Ok(()),
            hint => write!(out, " (hint: {hint})"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Sdk(error) => Some(&**error),
            _ => None,
        }
    }
}
