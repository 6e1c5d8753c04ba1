//! Moments in the stream of a device, to time its work with.

use super::*;

/// The end of the work that was queued before it.
pub(super) struct Event {
    handle: *mut ffi::cusae_event,
    engine: Arc<Engine>,
}

impl Event {
    /// Marks the end of the work queued so far.
    pub(super) fn record(native: &Native) -> Result<Event> {
        let mut event = Event { handle: std::ptr::null_mut(), engine: native.engine.clone() };
        runtime!(native.engine.stream(), "time", event_create(&mut event.handle))?;
        runtime!(native.engine.stream(), "time", event_record(event.handle))?;
        Ok(event)
    }

    /// Waits for both, and says how long the device took from the other to this one.
    pub(super) fn seconds_since(&self, start: &Event) -> Result<f64> {
        let (stream, mut milliseconds) = (self.engine.stream(), 0.0);
        let elapsed = stream.table.event_elapsed_ms.expect(COMPLETE);
        // SAFETY: the table is complete, and both events are recorded ones that live.
        let status = unsafe { elapsed(&mut milliseconds, start.handle, self.handle) };
        stream.check("time", status)?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        let stream = self.engine.stream();
        // SAFETY: the table is complete, and nobody has the event any more. An error is one of the
        // work before, which the next read reports.
        unsafe { stream.table.event_destroy.expect(COMPLETE)(self.handle) };
    }
}
