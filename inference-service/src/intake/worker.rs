//! The threads that analyse: one job at a time, each thread with its own model
//! state and scratch. A job that fails costs itself; the thread lives on.

use std::sync::Arc;
use std::thread::JoinHandle;

use flatframe_shared::{clock, telemetry};

use super::dispatch::Dispatch;
use super::job::Answer;
use crate::metrics::stages::Stages;
use crate::vision::{AnalyzeError, Analyzer, AnalyzerState};

/// Starts one thread for each worker of `dispatch`.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    dispatch: &Arc<Dispatch>,
    analyzer: &Analyzer,
    stages: &Arc<Stages>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    (0..dispatch.workers())
        .map(|worker| {
            let (dispatch, stages, state) = (dispatch.clone(), stages.clone(), analyzer.spawn());
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || run(&dispatch, state, &stages))
        })
        .collect()
}

/// Works until the dispatch is closed and empty.
fn run(dispatch: &Dispatch, mut state: AnalyzerState, stages: &Stages) {
    while let Some(job) = dispatch.take() {
        let begun = clock::now();
        let trace = telemetry::trace_id(&job.span);
        let trace = trace.as_deref();
        let is_late = job.reply.is_late();
        if !is_late {
            // How long a late frame waits says nothing of the load.
            stages.queued.record(begun.duration_since(job.arrived), trace);
        }
        let result = job.span.in_scope(|| state.analyze(&job.jpeg, job.rotation));
        dispatch.record(clock::now().duration_since(begun), is_late);
        let answer = match result {
            Ok(analysis) => {
                stages.decode.record(analysis.timings.decode, trace);
                stages.detect.record(analysis.timings.detect, trace);
                stages.gender.record(analysis.timings.gender, trace);
                Answer::Analyzed(analysis)
            }
            Err(AnalyzeError::Invalid(why)) => Answer::Invalid(why),
            Err(AnalyzeError::Failed(why)) => Answer::Failed(why),
        };
        job.reply.answer(answer);
    }
}
