use std::fmt::Write;

use chrono::{DateTime, Local, NaiveDateTime};
use minijinja::{Error, ErrorKind};

/// What a template is told of the time.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's, in its own time zone, as transformers has it.
    Running,
    /// The same for ever.
    Still(NaiveDateTime),
}

impl Clock {
    /// Stands still at `SOURCE_DATE_EPOCH` (seconds since 1970, UTC) where that is set, as reproducible builds have it, so that
    /// a template which writes today's date gives the same token ids tomorrow.
    pub fn of_process() -> Clock {
        let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
        match seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
            Some(instant) => Clock::Still(instant.naive_utc()),
            None => Clock::Running,
        }
    }

    pub(super) fn strftime(self, format: &str) -> Result<String, Error> {
        let now = match self {
            Clock::Running => Local::now().naive_local(),
            Clock::Still(instant) => instant,
        };
        let mut text = String::new();
        // An unknown letter is an error here, and would be a panic in to_string().
        match write!(text, "{}", now.format(format)) {
            Ok(()) => Ok(text),
            Err(_) => Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now: the format {format:?} is not known"))),
        }
    }
}
