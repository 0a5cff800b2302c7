//! A transport that replays what a machine has answered, for tests.
//!
//! A recording has a line for each answer: `CMD DOMID ARG0 ARG1 = RESULT`, all
//! decimal; a negative result is an errno. `#` begins a comment. A line for a
//! call that is already there is the answer to the next such call; the last
//! one is given for ever. Two kinds of lines change the answers as the machine
//! would: after `on CMD DOMID ARG0 ARG1` every line up to `end` replaces the
//! answers of its call once that call was made. A call that is not in the
//! recording ends the test.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use crate::transport::Transport;

type Call = [u64; 4];
type Answers = HashMap<Call, VecDeque<i64>>;

/// See the top of the file.
#[derive(Debug)]
pub struct Recorded {
    answers: RefCell<Answers>,
    events: HashMap<Call, Answers>,
    /// The calls made, in order.
    pub calls: RefCell<Vec<Call>>,
}

impl Recorded {
    /// Reads a recording.
    ///
    /// # Panics
    /// Where a line is none of the above.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut answers = Answers::new();
        let mut events: HashMap<Call, Answers> = HashMap::new();
        let mut event = None;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
            } else if let Some(call) = line.strip_prefix("on ") {
                event = Some(parse_call(call));
            } else if line == "end" {
                event = None;
            } else {
                let (call, result) = line.split_once('=').expect("CALL = RESULT");
                let result = result.trim().parse().expect("a number");
                let target = match event {
                    Some(call) => events.entry(call).or_default(),
                    None => &mut answers,
                };
                target
                    .entry(parse_call(call))
                    .or_default()
                    .push_back(result);
            }
        }
        Self {
            answers: RefCell::new(answers),
            events,
            calls: RefCell::default(),
        }
    }
}

fn parse_call(text: &str) -> Call {
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    numbers.try_into().expect("four numbers")
}

impl Transport for Recorded {
    fn vmf_op(&self, arguments: Call) -> Result<u32, i32> {
        self.calls.borrow_mut().push(arguments);
        let mut answers = self.answers.borrow_mut();
        let result = match answers.get_mut(&arguments) {
            Some(queue) if queue.len() > 1 => queue.pop_front(),
            Some(queue) => queue.front().copied(),
            None => None,
        };
        let Some(result) = result else {
            panic!("the recording has no answer to {arguments:?}");
        };
        if result >= 0
            && let Some(event) = self.events.get(&arguments)
        {
            answers.extend(event.iter().map(|(call, queue)| (*call, queue.clone())));
        }
        u32::try_from(result).map_err(|_| -i32::try_from(result).expect("an errno"))
    }

    fn name(&self) -> &'static str {
        "recorded"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_order_and_events_replace_them() {
        let r = Recorded::parse(
            "0 1 2 3 = 7\n0 1 2 3 = 8 # later\n2 1 0 0 = 0\n9 0 0 0 = -38\non 2 1 0 0\n0 1 2 3 = 9\nend\n",
        );
        assert_eq!(r.vmf_op([0, 1, 2, 3]), Ok(7));
        assert_eq!(r.vmf_op([0, 1, 2, 3]), Ok(8));
        assert_eq!(r.vmf_op([0, 1, 2, 3]), Ok(8));
        assert_eq!(r.vmf_op([9, 0, 0, 0]), Err(38));
        assert_eq!(r.vmf_op([2, 1, 0, 0]), Ok(0));
        assert_eq!(r.vmf_op([0, 1, 2, 3]), Ok(9));
        assert_eq!(r.calls.borrow().len(), 6);
    }
}
