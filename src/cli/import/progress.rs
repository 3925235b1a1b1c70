//! How far a long command has come: a bar on a terminal, otherwise a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    start: Instant,
    last_line: Instant,
    total: Option<u64>,
    /// Rows before this process.
    before: u64,
    rows: u64,
}

impl Progress {
    /// Of `total` rows, if that is known, of which `before` were done by an earlier process; `quiet`: show nothing.
    pub fn new(total: Option<u64>, before: u64, quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{wide_bar} {percent:>3} %  {human_pos}/{human_len} rows  {per_sec}  {eta} left",
                ),
                None => (ProgressBar::new_spinner(), "{spinner} {human_pos} rows  {per_sec}"),
            };
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.with_position(before)
        });
        if let Some(bar) = &bar {
            bar.reset_eta();
        }
        let now = Instant::now();
        Self { bar, quiet, start: now, last_line: now, total, before, rows: before }
    }

    /// So many rows further.
    pub fn advance(&mut self, rows: u64) {
        self.rows += rows;
        if let Some(bar) = &self.bar {
            bar.set_position(self.rows);
        } else if !self.quiet && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.message(&self.line());
        }
    }

    fn rate(&self) -> f64 {
        (self.rows - self.before) as f64 / self.start.elapsed().as_secs_f64().max(0.001)
    }

    fn line(&self) -> String {
        let (done, rate) = (HumanCount(self.rows), self.rate());
        let per_second = HumanCount(rate as u64);
        match self.total {
            Some(total) => {
                let left = total.saturating_sub(self.rows) as f64 / rate.max(0.001);
                // A rate of nearly nothing gives a time that no Duration holds.
                let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
                format!("{done} of {} rows, {per_second}/s, {left} left", HumanCount(total))
            }
            None => format!("{done} rows, {per_second}/s"),
        }
    }

    /// Prints a line above the bar.
    pub fn message(&self, text: &str) {
        let print = || {
            // There is nobody to tell if standard error is gone.
            let _ = writeln!(io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bar; tells rows and rate.
    pub fn finish(&self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        format!("{:.1} s, {} rows/s", self.start.elapsed().as_secs_f64(), HumanCount(self.rate() as u64))
    }
}
