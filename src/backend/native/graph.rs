//! Work that is recorded as a CUDA graph and replayed: one launch for all of a training step's kernels.

use super::*;

/// What is known of work that is repeated: first it is only done, so that scratch memory grows to its
/// size, then recorded, then replayed. It starts again after a buffer was given back, because the work
/// may have been on it.
#[derive(Default)]
pub struct Recording {
    /// `Stream::n_freed` when the work was done or recorded.
    n_freed: Option<u64>,
    graph: Option<Graph>,
}

/// Work that can be queued as one.
struct Graph {
    handle: *mut ffi::cusae_graph,
    engine: Arc<Engine>,
}

// SAFETY: the pointer is only given to the C functions, which may be called from any thread; the
// engine's mutex sees to it that not two call at once.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let stream = self.engine.stream();
        // SAFETY: the table is complete, and nobody has the graph any more. An error is one of the work
        // before, which the next read reports.
        unsafe { stream.table.graph_destroy.expect(COMPLETE)(self.handle) };
    }
}

/// See [`Backend::repeat`].
pub(super) fn repeat(native: &Native, recording: &mut Recording, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let stream = native.engine.stream();
    // Inside of other repeated work it is a part of that.
    let as_it_is = stream.wait_for_each || stream.recorder.is_some();
    let n_freed = stream.n_freed;
    drop(stream);
    if recording.n_freed != Some(n_freed) || as_it_is {
        *recording = Recording { n_freed: Some(n_freed), graph: None };
        return work();
    }
    let graph = match &mut recording.graph {
        Some(graph) => graph,
        none => none.insert(record(native, work)?),
    };
    runtime!(native.engine.stream(), "replay", graph_launch(graph.handle))
}

/// Records work, which is not done.
fn record(native: &Native, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
    let capture = Capture::begin(native)?;
    work()?;
    capture.end()
}

/// The time of recording, in which only this thread uses the stream.
struct Capture {
    engine: Arc<Engine>,
}

impl Capture {
    fn begin(native: &Native) -> Result<Capture> {
        let mut stream = native.engine.stream();
        runtime!(stream, "record", capture_begin())?;
        stream.recorder = Some(thread::current().id());
        Ok(Capture { engine: native.engine.clone() })
    }

    fn end(&self) -> Result<Graph> {
        let mut stream = self.engine.stream();
        stream.recorder = None;
        let mut handle = std::ptr::null_mut();
        let ended = runtime!(stream, "record", capture_end(&mut handle));
        drop(stream);
        self.engine.recording_ends.notify_all();
        ended.map(|()| Graph { handle, engine: self.engine.clone() })
    }
}

impl Drop for Capture {
    /// Work that failed leaves no graph, and a stream that can be used.
    fn drop(&mut self) {
        if self.engine.stream().recorder.is_some() {
            let _ = self.end();
        }
    }
}
