//! Counts and prints test cases: one line each with its time, and the sum.

use std::time::{Duration, Instant};

/// The cases of one run of `cargo xtask test`.
pub struct Cases {
    filter: Option<String>,
    passed: usize,
    failed: Vec<String>,
}

impl Cases {
    /// No cases yet; `filter` selects those whose name contains it.
    pub fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            passed: 0,
            failed: Vec::new(),
        }
    }

    /// No cases yet, of the same filter: for those of another thread.
    pub fn beside(&self) -> Self {
        Self::new(self.filter.clone())
    }

    /// Takes over the cases of the other thread.
    pub fn absorb(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
    }

    /// Whether a case of this name is to run.
    pub fn wants(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|text| name.contains(text))
    }

    /// Runs one case if it is wanted, and records how it went.
    pub fn case(&mut self, name: &str, body: impl FnOnce() -> anyhow::Result<()>) {
        if self.wants(name) {
            let start = Instant::now();
            let result = body();
            self.record(name, start.elapsed(), result);
        }
    }

    /// Records a case that ran elsewhere (on another thread, say).
    pub fn record(&mut self, name: &str, time: Duration, result: anyhow::Result<()>) {
        let seconds = time.as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok     {seconds:7.1}s  {name}");
            }
            Err(error) => {
                println!("FAILED {seconds:7.1}s  {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Records the cases of one program that ran several.
    pub fn group(&mut self, name: &str, time: Duration, passed: usize, failed: &[String]) {
        let seconds = time.as_secs_f64();
        self.passed += passed;
        let total = passed + failed.len();
        if failed.is_empty() {
            println!("ok     {seconds:7.1}s  {name}: {total} cases");
        } else {
            println!(
                "FAILED {seconds:7.1}s  {name}: {} of {total} cases",
                failed.len()
            );
            self.failed
                .extend(failed.iter().map(|case| format!("{name}: {case}")));
        }
    }

    /// Says that a case cannot run on this machine; it counts as neither.
    pub fn skip(&mut self, name: &str, why: &str) {
        if self.wants(name) {
            println!("skip            {name}: {why}");
        }
    }

    /// Prints the sum; true if at least one case ran and none failed.
    pub fn finish(self) -> bool {
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        self.passed > 0 && self.failed.is_empty()
    }
}
