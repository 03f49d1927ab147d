//! The table of a sweep while it runs: drawn again and again on a terminal, a line for each change elsewhere.

use std::time::Instant;

use console::Term;

use super::estimate;
use super::report::{Columns, RIGHT};
use crate::host::table::table;
use crate::host::terminal;
use crate::record::RunRecord;

/// Lines of the table that are not experiments: its header, an empty one, the bar.
const FRAME: usize = 4;
const BAR: usize = 30;

/// What is going on with an experiment.
#[derive(Debug, Clone)]
pub enum State {
    Waiting,
    Running {
        stage: String,
        progress: Option<(u64, u64, String)>,
        since: Instant,
    },
    /// Its record, and whether it was there before.
    Ended {
        record: Box<RunRecord>,
        before: bool,
    },
    Failed {
        message: String,
        is_recorded: bool,
    },
    Stopped,
}

/// One experiment.
pub struct Line {
    pub name: String,
    pub bits: f64,
    /// Estimated.
    pub seconds: f64,
    pub state: State,
}

/// All of them.
pub struct Board {
    /// Where it is drawn; `None` where stderr is no terminal.
    term: Option<Term>,
    columns: Columns,
    lines: Vec<Line>,
    /// Experiments at once.
    slots: usize,
    started: Instant,
    /// Estimated and true seconds of what ended in this run.
    ended: Vec<(f64, f64)>,
    drawn: usize,
}

impl Board {
    /// Of these experiments, `slots` of which run at once.
    pub fn new(columns: Columns, lines: Vec<Line>, slots: usize) -> Board {
        let term = Some(Term::buffered_stderr()).filter(|term| term.is_term() && terminal::is_owned());
        Board { term, columns, lines, slots, started: Instant::now(), ended: Vec::new(), drawn: 0 }
    }

    /// Experiment `row` is at something else.
    pub fn set(&mut self, row: usize, state: State) {
        if let State::Running { since, .. } = self.lines[row].state
            && matches!(state, State::Ended { .. } | State::Failed { .. })
        {
            self.ended.push((self.lines[row].seconds, since.elapsed().as_secs_f64()));
        }
        let is_news = match (&self.lines[row].state, &state) {
            (State::Running { stage: before, .. }, State::Running { stage, .. }) => before != stage,
            _ => true,
        };
        self.lines[row].state = state;
        if self.term.is_none() && is_news {
            terminal::say(self.news(row));
        }
    }

    /// The state of experiment `row`.
    pub fn state(&self, row: usize) -> &State {
        &self.lines[row].state
    }

    /// Draws it as it is now.
    pub fn draw(&mut self) {
        let Some(term) = self.term.clone() else { return };
        let (height, width) = term.size();
        let text = self.text(usize::from(height), usize::from(width));
        // A terminal that cannot be written to has nobody who would read of it.
        let _ = term.clear_last_lines(self.drawn).and_then(|()| term.write_line(&text)).and_then(|()| term.flush());
        self.drawn = text.lines().count();
    }

    /// Takes it away.
    pub fn clear(&mut self) {
        if let Some(term) = &self.term {
            let _ = term.clear_last_lines(self.drawn).and_then(|()| term.flush());
        }
        self.drawn = 0;
    }

    /// Says something above the table.
    pub fn say(&mut self, line: &str) {
        self.clear();
        terminal::say(line);
        self.draw();
    }

    fn text(&self, height: usize, width: usize) -> String {
        let rows = self.lines.iter().map(|line| {
            let (record, time) = match &line.state {
                State::Ended { record, .. } => (Some(&**record), estimate::shown(estimate::taken(record))),
                State::Running { since, .. } => (None, estimate::shown(since.elapsed().as_secs_f64())),
                State::Waiting => (None, format!("about {}", estimate::shown(line.seconds))),
                _ => (None, String::new()),
            };
            self.columns.cells(&line.name, &state_word(&line.state), line.bits, record, time)
        });
        let all = table(&self.columns.header(), &RIGHT, rows);
        let mut lines: Vec<&str> = all.lines().collect();
        let header = if lines.is_empty() { "" } else { lines.remove(0) };
        let shown = self.window(height.saturating_sub(FRAME + 1).max(1));
        let cut = |line: &str| console::truncate_str(line, width.saturating_sub(1), "…").into_owned();
        let mut text = vec![cut(header)];
        text.extend(lines[shown.clone()].iter().map(|line| cut(line)));
        let hidden = lines.len() - shown.len();
        text.push(if hidden > 0 { format!("… {hidden} more") } else { String::new() });
        text.push(cut(&self.bar()));
        text.join("\n")
    }

    /// The experiments that fit: those around the first that runs.
    fn window(&self, most: usize) -> std::ops::Range<usize> {
        let count = self.lines.len();
        if count <= most {
            return 0..count;
        }
        let focus = self.lines.iter().position(|line| matches!(line.state, State::Running { .. })).unwrap_or(count);
        let start = focus.saturating_sub(2 * most / 3).min(count - most);
        start..start + most
    }

    fn bar(&self) -> String {
        let done = self.lines.iter().filter(|line| matches!(line.state, State::Ended { .. } | State::Failed { .. })).count();
        let failed = self.lines.iter().filter(|line| matches!(line.state, State::Failed { .. })).count();
        let all = self.lines.len();
        let filled = BAR * done / all.max(1);
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let (elapsed, left) = (estimate::shown(self.started.elapsed().as_secs_f64()), self.left());
        format!("[{}{}] {done}/{all}{failures}, {elapsed} so far, {left}", "=".repeat(filled), " ".repeat(BAR - filled))
    }

    /// `about 12 min left`, by the estimates and how they have held in this run.
    fn left(&self) -> String {
        let open = self.lines.iter().map(|line| match line.state {
            State::Waiting => line.seconds,
            State::Running { since, .. } => (line.seconds - since.elapsed().as_secs_f64()).max(0.0),
            _ => 0.0,
        });
        let seconds = open.sum::<f64>() * estimate::factor(&self.ended) / self.slots.max(1) as f64;
        format!("about {} left", estimate::shown(seconds))
    }

    /// One line about experiment `row`, for a log.
    fn news(&self, row: usize) -> String {
        let line = &self.lines[row];
        let what = match &line.state {
            State::Ended { record, before: false } => {
                let cells = self.columns.cells("", "", line.bits, Some(record), estimate::shown(estimate::taken(record)));
                let said: Vec<String> = self
                    .columns
                    .header()
                    .iter()
                    .zip(cells)
                    .skip(2)
                    .filter(|(_, cell)| !cell.is_empty())
                    .map(|(name, cell)| format!("{name} {cell}"))
                    .collect();
                format!("done: {}", said.join(", "))
            }
            State::Failed { message, .. } => format!("failed: {message}"),
            state => state_word(state),
        };
        match line.state {
            State::Ended { before: false, .. } | State::Failed { .. } => format!("{}: {what} {}", line.name, self.bar()),
            _ => format!("{}: {what}", line.name),
        }
    }
}

fn state_word(state: &State) -> String {
    match state {
        State::Waiting => "waits".to_owned(),
        State::Running { stage, progress: None, .. } => stage.clone(),
        State::Running { stage, progress: Some((done, total, note)), .. } => format!("{stage} {done}/{total} {note}"),
        State::Ended { before: true, .. } => "done before".to_owned(),
        State::Ended { before: false, .. } => "done".to_owned(),
        State::Failed { .. } => "failed".to_owned(),
        State::Stopped => "stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(states: Vec<State>) -> Board {
        let line = |state| Line { name: "name".to_owned(), bits: 4.5, seconds: 10.0, state };
        Board::new(Columns::Coqa, states.into_iter().map(line).collect(), 1)
    }

    #[test]
    fn a_small_terminal_shows_what_runs() {
        let running =
            || State::Running { stage: "coqa".into(), progress: Some((3, 9, "F1 0.300".into())), since: Instant::now() };
        let mut states = vec![State::Waiting; 30];
        states[20] = running();
        let board = board(states);
        let text = board.text(12, 60);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().any(|line| line.contains("coqa 3/9 F1 0.300")), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() < 60), "{text}");
        assert!(lines[8].contains("… 23 more") && lines[9].contains("0/30"), "{text}");
        let large = board.text(100, 200);
        assert_eq!(large.lines().count(), 33);
    }

    #[test]
    fn time_left_follows_how_the_estimates_have_held() {
        let mut board = board(vec![State::Waiting, State::Waiting]);
        assert_eq!(board.left(), "about 20 s left");
        board.ended.push((10.0, 30.0));
        assert_eq!(board.left(), "about 60 s left");
        board.slots = 2;
        assert_eq!(board.left(), "about 30 s left");
    }
}
