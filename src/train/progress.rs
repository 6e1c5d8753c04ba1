//! What a run tells while it works: a bar on a terminal, plain lines elsewhere, or nothing.

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Whoever listens to a run.
pub trait Reporter {
    /// Something worth a line: a model was loaded, a checkpoint was written.
    fn message(&mut self, text: &str);
    /// Training begins: it will have seen `total` tokens at the end and has seen `done`.
    fn start(&mut self, total: u64, done: u64);
    /// A step is done; `n_training_samples` tokens have been seen in all.
    fn step(&mut self, n_training_samples: u64);
    /// The numbers of the latest step, of every SAE; comes after its [`Reporter::step`], on logged steps
    /// only.
    fn metrics(&mut self, metrics: &[StepMetrics]);
    /// Training is over.
    fn finish(&mut self);
}

/// The numbers of a step that people watch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// Which SAE; empty where there is only one.
    pub name: String,
    /// `losses/overall_loss`.
    pub loss: f64,
    /// `metrics/l0`.
    pub l0: f64,
    /// `metrics/explained_variance`.
    pub explained_variance: f64,
    /// `sparsity/dead_features`.
    pub dead_features: u64,
}

impl std::fmt::Display for StepMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StepMetrics { name, loss, l0, explained_variance, dead_features } = self;
        if !name.is_empty() {
            write!(f, "{name}: ")?;
        }
        write!(f, "loss {loss:.4} · L0 {l0:.1} · explained variance {explained_variance:.4} · dead {dead_features}")
    }
}

/// The reporter that fits: silent if asked to be, a bar if stderr is a terminal, else lines there.
pub fn reporter(quiet: bool) -> Box<dyn Reporter> {
    if quiet {
        Box::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar(ProgressBar::hidden()))
    } else {
        Box::new(Lines::new(|line: &str| eprintln!("{line}")))
    }
}

/// Says nothing.
pub struct Silent;

impl Reporter for Silent {
    fn message(&mut self, _: &str) {}
    fn start(&mut self, _: u64, _: u64) {}
    fn step(&mut self, _: u64) {}
    fn metrics(&mut self, _: &[StepMetrics]) {}
    fn finish(&mut self) {}
}

/// A bar that stays in place, with lines above it.
struct Bar(ProgressBar);

impl Reporter for Bar {
    fn message(&mut self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{text}");
        } else {
            self.0.println(text);
        }
    }

    fn start(&mut self, total: u64, done: u64) {
        let template = "{wide_bar} {human_pos}/{human_len} tokens · {per_sec} tokens/s · {eta} left\n{msg}";
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let per_second = |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            // What cannot be drawn is left out; there is nobody to tell.
            let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
        };
        self.0 = ProgressBar::new(total).with_position(done).with_style(style.with_key("per_sec", per_second));
        self.0.reset_eta();
    }

    fn step(&mut self, n_training_samples: u64) {
        self.0.set_position(n_training_samples);
    }

    fn metrics(&mut self, metrics: &[StepMetrics]) {
        let lines: Vec<String> = metrics.iter().map(StepMetrics::to_string).collect();
        self.0.set_message(lines.join("\n"));
    }

    fn finish(&mut self) {
        self.0.finish();
        // What comes now comes below the bar.
        self.0 = ProgressBar::hidden();
    }
}

/// Plain lines: at the first metrics, every tenth of the run, once a minute, and at the end.
struct Lines<Print: FnMut(&str)> {
    print: Print,
    total: u64,
    done_at_start: u64,
    done: u64,
    started: Instant,
    printed: Option<(Instant, u64)>,
    latest: Vec<StepMetrics>,
}

impl<Print: FnMut(&str)> Lines<Print> {
    fn new(print: Print) -> Self {
        Lines { print, total: 0, done_at_start: 0, done: 0, started: Instant::now(), printed: None, latest: Vec::new() }
    }

    fn is_due(&self) -> bool {
        self.printed.is_none_or(|(when, tenths)| self.tenths() > tenths || when.elapsed() >= Duration::from_secs(60))
    }

    fn tenths(&self) -> u64 {
        10 * self.done / self.total.max(1)
    }

    fn print_latest(&mut self) {
        let metrics = std::mem::take(&mut self.latest);
        let Some(first) = metrics.first() else { return };
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.done - self.done_at_start) as f64 / seconds.max(1e-9);
        let left =
            HumanDuration(Duration::from_secs((self.total.saturating_sub(self.done) as f64 / rate.max(1.0)) as u64));
        let (done, total, rate) = (HumanCount(self.done), HumanCount(self.total), HumanCount(rate as u64));
        let line = format!("{done}/{total} tokens · {rate} tokens/s · {left:#} left");
        // Several SAEs have a line each.
        if first.name.is_empty() {
            (self.print)(&format!("{line} · {first}"));
        } else {
            (self.print)(&line);
            metrics.iter().for_each(|metrics| (self.print)(&format!("    {metrics}")));
        }
        self.printed = Some((Instant::now(), self.tenths()));
    }
}

impl<Print: FnMut(&str)> Reporter for Lines<Print> {
    fn message(&mut self, text: &str) {
        (self.print)(text);
    }

    fn start(&mut self, total: u64, done: u64) {
        (self.total, self.done_at_start, self.done, self.started) = (total, done, done, Instant::now());
    }

    fn step(&mut self, n_training_samples: u64) {
        self.done = n_training_samples;
    }

    fn metrics(&mut self, metrics: &[StepMetrics]) {
        self.latest = metrics.to_vec();
        if self.is_due() {
            self.print_latest();
        }
    }

    fn finish(&mut self) {
        self.print_latest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(total: u64, done: u64, batch: u64, saes: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut reporter = Lines::new(|line: &str| lines.push(line.to_owned()));
        reporter.start(total, done);
        let (loss, l0, explained_variance, dead_features) = (1.5, 32.0, 0.75, 3);
        let metrics = |name: &&str| StepMetrics { name: name.to_string(), loss, l0, explained_variance, dead_features };
        let metrics: Vec<_> = saes.iter().map(metrics).collect();
        for seen in (done + batch..=total).step_by(batch as usize) {
            reporter.step(seen);
            reporter.metrics(&metrics);
        }
        reporter.finish();
        lines
    }

    #[test]
    fn lines_come_first_then_at_every_tenth_of_the_run_and_at_the_end() {
        let lines = lines_of(1000, 0, 7, &[""]);
        assert_eq!(lines.len(), 1 + 9 + 1, "{lines:#?}");
        assert!(lines[0].starts_with("7/1,000 tokens · "), "{}", lines[0]);
        assert!(lines[1].starts_with("105/1,000 tokens · "), "{}", lines[1]);
        assert!(lines[10].starts_with("994/1,000 tokens · "), "{}", lines[10]);
        assert!(lines[10].ends_with("loss 1.5000 · L0 32.0 · explained variance 0.7500 · dead 3"), "{}", lines[10]);
    }

    #[test]
    fn a_resumed_run_goes_on_counting() {
        let lines = lines_of(1000, 500, 100, &[""]);
        assert!(lines[0].starts_with("600/1,000 tokens · "), "{}", lines[0]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_run_without_metrics_says_nothing() {
        assert!(lines_of(0, 0, 1, &[""]).is_empty());
    }

    #[test]
    fn several_saes_have_a_line_each() {
        let lines = lines_of(1000, 0, 1000, &["k=8", "k=16"]);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[0].starts_with("1,000/1,000 tokens · ") && lines[0].ends_with(" left"), "{}", lines[0]);
        assert_eq!(lines[2], "    k=16: loss 1.5000 · L0 32.0 · explained variance 0.7500 · dead 3");
    }
}
