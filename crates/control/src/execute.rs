//! Carries out a plan's tasks: each when what it depends on has ended, several at a time, none after the controller is
//! told to end. What fails takes with it only what needs it.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::plan::Task;

/// Who does the work and tells of it.
pub(crate) trait Conductor: Sync {
    /// Does a task; whether it succeeded.
    fn perform(&self, task: &Task) -> bool;

    /// Tells that a task cannot be done, because one that it needs was not.
    fn skip(&self, task: &Task, because: &Task);

    /// Whether to begin nothing more.
    fn ending(&self) -> bool;
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Running,
    Succeeded,
    Failed,
}

impl Progress {
    fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What to do next.
enum Next {
    Perform(usize),
    Skip {
        task: usize,
        because: usize,
    },
    /// Something else must end first.
    Wait,
    Nothing,
}

/// Carries out `tasks`, at most `parallel` at a time, and returns when all of them have ended or been skipped.
pub(crate) fn execute(tasks: &[Task], parallel: usize, conductor: &dyn Conductor) {
    let progress = Mutex::new(vec![Progress::Waiting; tasks.len()]);
    let ended = Condvar::new();
    let work = || {
        let mut state = progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if conductor.ending() {
                return;
            }
            let (task, succeeded) = match next(tasks, &state) {
                Next::Nothing => return,
                Next::Wait => {
                    state = ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Next::Perform(task) => {
                    state[task] = Progress::Running;
                    drop(state);
                    (task, conductor.perform(&tasks[task]))
                }
                Next::Skip { task, because } => {
                    state[task] = Progress::Running;
                    drop(state);
                    conductor.skip(&tasks[task], &tasks[because]);
                    (task, false)
                }
            };
            state = progress.lock().unwrap_or_else(PoisonError::into_inner);
            state[task] = if succeeded { Progress::Succeeded } else { Progress::Failed };
            ended.notify_all();
        }
    };
    let workers = parallel.clamp(1, tasks.len().max(1));
    if workers == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
}

fn next(tasks: &[Task], progress: &[Progress]) -> Next {
    let mut open = false;
    for (index, task) in tasks.iter().enumerate().filter(|(index, _)| !progress[*index].ended()) {
        open = true;
        let ended = task.needs.iter().chain(&task.after).all(|before| progress[*before].ended());
        if progress[index] == Progress::Running || !ended {
            continue;
        }
        return match task.needs.iter().find(|needed| progress[**needed] == Progress::Failed) {
            Some(because) => Next::Skip { task: index, because: *because },
            None => Next::Perform(index),
        };
    }
    if open { Next::Wait } else { Next::Nothing }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::plan::Work;

    #[derive(Default)]
    struct Recorder {
        fails: Vec<usize>,
        trace: Mutex<Vec<String>>,
        running: AtomicUsize,
        most: AtomicUsize,
    }

    fn number(task: &Task) -> usize {
        match &task.work {
            Work::ApplyDataplane(config) => config.revision as usize,
            other => panic!("{other:?}"),
        }
    }

    impl Conductor for Recorder {
        fn perform(&self, task: &Task) -> bool {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            self.trace.lock().unwrap().push(format!("do {}", number(task)));
            self.running.fetch_sub(1, Ordering::SeqCst);
            !self.fails.contains(&number(task))
        }

        fn skip(&self, task: &Task, because: &Task) {
            self.trace.lock().unwrap().push(format!("skip {} for {}", number(task), number(because)));
        }

        fn ending(&self) -> bool {
            false
        }
    }

    fn task(index: usize, needs: &[usize], after: &[usize]) -> Task {
        let config = weft_dataplane_protocol::DataplaneConfig { revision: index as u64, ..Default::default() };
        Task { work: Work::ApplyDataplane(config), needs: needs.to_vec(), after: after.to_vec(), steps: vec![] }
    }

    #[test]
    fn a_failure_takes_only_what_needs_it() {
        let tasks = [task(0, &[], &[]), task(1, &[0], &[]), task(2, &[], &[0]), task(3, &[1], &[]), task(4, &[], &[])];
        let recorder = Recorder { fails: vec![0], ..Recorder::default() };
        execute(&tasks, 1, &recorder);
        let trace = recorder.trace.into_inner().unwrap();
        assert_eq!(trace, ["do 0", "skip 1 for 0", "do 2", "skip 3 for 1", "do 4"]);
    }

    proptest! {
        #[test]
        fn everything_is_done_once_in_order_and_within_the_limit(
            links in prop::collection::vec((0usize..8, any::<bool>()), 0..24),
            count in 1usize..8,
            parallel in 1usize..5,
        ) {
            let mut tasks: Vec<_> = (0..count).map(|index| task(index, &[], &[])).collect();
            for (at, (to, strong)) in links.into_iter().enumerate() {
                let from = at % count;
                if to < from {
                    if strong { tasks[from].needs.push(to) } else { tasks[from].after.push(to) }
                }
            }
            let recorder = Recorder::default();
            execute(&tasks, parallel, &recorder);
            prop_assert!(recorder.most.load(Ordering::SeqCst) <= parallel);
            let trace = recorder.trace.into_inner().unwrap();
            prop_assert_eq!(trace.len(), count);
            let place = |index: usize| trace.iter().position(|line| *line == format!("do {index}"));
            for (index, task) in tasks.iter().enumerate() {
                for before in task.needs.iter().chain(&task.after) {
                    prop_assert!(place(*before) < place(index));
                }
            }
        }
    }
}
