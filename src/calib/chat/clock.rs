use std::fmt::Write;
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use minijinja::{Error, ErrorKind};

/// What a template is told of the time: one instant, in UTC, so that the same chats have the same token ids however long they take
/// and wherever they are made again.
/// Its default is the beginning of 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock(DateTime<Utc>);

/// The variable by which reproducible builds say what time it is.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// A time that nobody could set a clock by.
#[derive(Debug, thiserror::Error)]
#[error(
    "SOURCE_DATE_EPOCH is {value:?}, expected seconds since 1970 as a whole number, such as 1704067200; set it so, or unset it"
)]
pub struct ClockError {
    value: String,
}

/// What a variable that hands it on can say.
fn whole_seconds(now: DateTime<Utc>) -> Clock {
    Clock::at(now.timestamp()).unwrap_or(Clock(now))
}

/// A format of Python's in chrono's letters: `%f` has six digits there and nine here.
fn for_chrono(format: &str) -> String {
    let parts: Vec<String> = format.split("%%").map(|part| part.replace("%f", "%6f")).collect();
    parts.join("%%")
}

impl Clock {
    /// Stands at so many seconds since 1970, UTC; nothing for a year that no calendar has.
    pub fn at(seconds: i64) -> Option<Clock> {
        DateTime::from_timestamp(seconds, 0).map(Clock)
    }

    /// Stands at `SOURCE_DATE_EPOCH` where that is set, else at the time at which this process first asked.
    ///
    /// # Errors
    /// The variable is set and is no time.
    pub fn of_process() -> Result<Clock, ClockError> {
        static FIRST_ASKED: OnceLock<Clock> = OnceLock::new();
        let Some(value) = Clock::told() else { return Ok(*FIRST_ASKED.get_or_init(|| whole_seconds(Utc::now()))) };
        let value = value.to_string_lossy();
        value.parse().ok().and_then(Clock::at).ok_or_else(|| ClockError { value: value.into_owned() })
    }

    /// Whether `SOURCE_DATE_EPOCH` says what time it is.
    pub fn is_told() -> bool {
        Clock::told().is_some()
    }

    fn told() -> Option<std::ffi::OsString> {
        std::env::var_os(SOURCE_DATE_EPOCH).filter(|value| !value.is_empty())
    }

    /// Since 1970, UTC.
    pub fn seconds(self) -> i64 {
        self.0.timestamp()
    }

    pub(super) fn strftime(self, format: &str) -> Result<String, Error> {
        let mut text = String::new();
        // An unknown letter is an error here, and would be a panic in to_string(). A naive time has no zone, as transformers' has none.
        match write!(text, "{}", self.0.naive_utc().format(&for_chrono(format))) {
            Ok(()) => Ok(text),
            Err(_) => Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now: the format {format:?} is not known"))),
        }
    }
}
