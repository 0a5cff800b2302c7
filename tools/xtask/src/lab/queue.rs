//! Who runs next where several machines run side by side, of which some need
//! the whole host.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs that wait, in the order in which they are to begin, and the room that
/// is left beside those that run.
pub struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    waiting: VecDeque<Taken<J>>,
    room: usize,
}

/// A job, and the room that it takes up.
pub struct Taken<J> {
    /// What is to be done.
    pub job: J,
    room: usize,
}

impl<J> Queue<J> {
    /// `jobs`, `room` of them at a time. Those that run `alone` come last: they
    /// have everything else end first.
    pub fn new(jobs: impl IntoIterator<Item = J>, room: usize, alone: impl Fn(&J) -> bool) -> Self {
        let (alone, others): (Vec<J>, Vec<J>) = jobs.into_iter().partition(alone);
        let others = others.into_iter().map(|job| Taken { job, room: 1 });
        let alone = alone.into_iter().map(|job| Taken { job, room });
        Self {
            state: Mutex::new(State {
                waiting: others.chain(alone).collect(),
                room,
            }),
            changed: Condvar::new(),
        }
    }

    /// The next job; waits until there is room for it. `None` if none is left.
    pub fn take(&self) -> Option<Taken<J>> {
        let mut state = self.lock();
        loop {
            if state.waiting.front()?.room <= state.room {
                let taken = state.waiting.pop_front()?;
                state.room -= taken.room;
                return Some(taken);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// That job has ended.
    pub fn give_back(&self, taken: &Taken<J>) {
        self.lock().room += taken.room;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_but_for_those_that_run_alone() {
        let queue = Queue::new([5, 1, 2, 3], 2, |&job| job == 5);
        for wanted in [1, 2, 3, 5] {
            let taken = queue.take().unwrap();
            assert_eq!(taken.job, wanted);
            queue.give_back(&taken);
        }
        assert!(queue.take().is_none());
    }

    #[test]
    fn who_waits_is_woken() {
        let queue = Queue::new([1, 2], 2, |&job| job == 2);
        let first = queue.take().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| queue.take().map(|taken| taken.job));
            queue.give_back(&first);
            assert_eq!(other.join().unwrap(), Some(2));
        });
    }
}
