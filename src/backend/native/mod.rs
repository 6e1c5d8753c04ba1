//! The backend behind cuda/api.h: a table of C functions that nvcc provides for a GPU and, in tests,
//! the emulator for the CPU. The host's side is the same for both.
//!
//! Everything is queued on one stream; only reading waits for it. An index outside its matrix, which
//! the CPU backend reports at once, is reported by the next read. With the environment variable
//! `CUSAE_SYNC=1` every operation is waited for, so that an error names the operation it belongs to, and
//! nothing is recorded.

mod device;
mod event;
mod ffi;
mod graph;
mod lm_ops;
mod memory;
mod sae_ops;

pub use device::{DeviceProperties, Unavailable};
pub use memory::NativeBuffer;

use super::*;
use std::ffi::{c_int, c_void, CStr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// A device behind the C interface. Clones share it; buffers of different devices must not be mixed.
#[derive(Clone)]
pub struct Native {
    engine: Arc<Engine>,
}

/// The device, alive as long as somebody has a buffer on it.
struct Engine {
    properties: DeviceProperties,
    stream: Mutex<Stream>,
    recording_ends: Condvar,
}

impl Engine {
    /// The stream, for this thread alone. While one thread records, others wait: what they queue is not
    /// part of its work.
    fn stream(&self) -> MutexGuard<'_, Stream> {
        let others_record = |stream: &mut Stream| stream.recorder.is_some_and(|id| id != thread::current().id());
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.recording_ends.wait_while(stream, others_record).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A C function that queues an operation with arguments `A`.
type Operation<A> = Option<unsafe extern "C" fn(*const A, *mut ffi::cusae_stream) -> c_int>;

/// The stream of an engine.
struct Stream {
    table: &'static ffi::cusae_table,
    handle: *mut ffi::cusae_stream,
    wait_for_each: bool,
    /// How many buffers were given back: recorded work may have been on one of them.
    n_freed: u64,
    /// The thread whose operations are being recorded.
    recorder: Option<ThreadId>,
}

// SAFETY: the C functions may be called from any thread; that not two call at once is the mutex's work.
unsafe impl Send for Stream {}

/// Calls a function of the runtime's part of the table: `runtime!(stream, "read", synchronize())`.
/// The stream's handle is the last argument.
macro_rules! runtime {
    ($stream:expr, $operation:expr, $function:ident($($argument:expr),*)) => {{
        let stream: &Stream = &$stream;
        // SAFETY: the table is complete and the handle lives as long as the engine; that pointers and
        // sizes are those of live buffers is checked where they come from.
        let status = unsafe { (stream.table.$function.expect(COMPLETE))($($argument,)* stream.handle) };
        stream.check($operation, status)
    }};
}
use runtime;

const COMPLETE: &str = "the table has every function";

impl Stream {
    /// Queues an operation.
    fn call<A>(&self, name: &'static str, operation: Operation<A>, arguments: &A) -> Result<()> {
        // SAFETY: every pointer in the arguments is one of a live buffer that `check()` has compared
        // with the dimensions, and the operation keeps within those.
        let status = unsafe { operation.expect(COMPLETE)(arguments, self.handle) };
        self.check(name, status)?;
        if self.wait_for_each {
            runtime!(self, name, synchronize())?;
        }
        Ok(())
    }

    /// A status in the words of [`Error`].
    fn check(&self, operation: &'static str, status: c_int) -> Result<()> {
        if status == ffi::CUSAE_OK as c_int {
            return Ok(());
        }
        if status == ffi::CUSAE_EINDEX {
            return Err(self.fault());
        }
        // SAFETY: the table is complete, and the text is valid until this thread's next call.
        let text = unsafe { CStr::from_ptr(self.table.error_text.expect(COMPLETE)(status)) };
        let text = text.to_string_lossy().into_owned();
        Err(match status {
            ffi::CUSAE_EINVAL => Error::Shape { operation, what: text },
            ..=0 => Error::Kernel { operation, what: text },
            code => Error::Kernel { operation, what: format!("CUDA error {code}: {text}") },
        })
    }

    /// The index outside its matrix that a kernel has met, in the CPU backend's words.
    fn fault(&self) -> Error {
        let mut fault = ffi::cusae_fault { kind: 0, index: 0, limit: 0, unused: 0 };
        // SAFETY: the table is complete, the handle valid, and `fault` can be written.
        unsafe { self.table.take_fault.expect(COMPLETE)(self.handle, &mut fault) };
        let ffi::cusae_fault { kind, index, limit, .. } = fault;
        let token = format!("token id {index} is outside the vocabulary of {limit}");
        let row = |matrix: &str| format!("row {index} is asked for, the {matrix} has {limit}");
        let (operation, what) = match kind {
            ffi::CUSAE_FAULT_EMBED_TOKEN => ("embed", token),
            ffi::CUSAE_FAULT_UNEMBED_TARGET => ("unembed_cross_entropy", token),
            ffi::CUSAE_FAULT_GATHER_SOURCE => ("gather_rows", row("source")),
            ffi::CUSAE_FAULT_SCATTER_SOURCE => ("scatter_rows", row("source")),
            _ => ("scatter_rows", row("destination")),
        };
        Error::Shape { operation, what }
    }

    /// Copies from the device and waits.
    fn read<T: Element>(&self, operation: &'static str, from: *const T, to: &mut [T]) -> Result<()> {
        let bytes = size_of_val(to) as u64;
        runtime!(self, operation, copy_to_host(to.as_mut_ptr().cast(), from.cast(), bytes))?;
        runtime!(self, operation, synchronize())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An error here is one that the work before should have reported; there is nobody to tell.
        // SAFETY: the engine is gone, so nobody uses the stream any more.
        unsafe { self.table.stream_destroy.expect(COMPLETE)(self.handle) };
    }
}

impl Native {
    /// What the device is.
    pub fn properties(&self) -> &DeviceProperties {
        &self.engine.properties
    }

    fn call<A>(
        &self,
        name: &'static str,
        operation: impl Fn(&ffi::cusae_table) -> Operation<A>,
        arguments: &A,
    ) -> Result<()> {
        let stream = self.engine.stream();
        stream.call(name, operation(stream.table), arguments)
    }
}

/// Checks the arguments, then queues the operation.
macro_rules! operations {
    ($($name:ident: $args:ident => $run:path,)*) => {
        $(fn $name(&self, op: $args<'_, Self>) -> Result<()> {
            op.check()?;
            $run(self, op)
        })*
    };
}

impl Backend for Native {
    type Buffer<T: Element> = NativeBuffer<T>;
    type Recording = graph::Recording;

    fn describe(&self) -> String {
        self.engine.properties.to_string()
    }

    fn memory(&self) -> Option<Memory> {
        let DeviceProperties { memory_total, memory_free, .. } = self.engine.properties;
        Some(Memory { total: memory_total, available: memory_free })
    }

    fn zeros<T: Element>(&self, len: usize) -> Result<NativeBuffer<T>> {
        memory::zeros(self, len)
    }

    fn upload<T: Element>(&self, data: &[T]) -> Result<NativeBuffer<T>> {
        memory::upload(self, data)
    }

    fn write<T: Element>(&self, to: &mut NativeBuffer<T>, offset: usize, data: &[T]) -> Result<()> {
        memory::write(self, to, offset, data)
    }

    fn read<T: Element>(&self, from: &NativeBuffer<T>, offset: usize, data: &mut [T]) -> Result<()> {
        memory::read(self, from, offset, data)
    }

    fn copy<T: Element>(
        &self,
        from: &NativeBuffer<T>,
        from_offset: usize,
        to: &mut NativeBuffer<T>,
        to_offset: usize,
        len: usize,
    ) -> Result<()> {
        memory::copy(self, from, from_offset, to, to_offset, len)
    }

    fn fill<T: Element>(&self, buffer: &mut NativeBuffer<T>, value: T) -> Result<()> {
        memory::fill(self, buffer, value)
    }

    unsafe fn copy_from_address<T: Element>(&self, from: *const T, to: &mut NativeBuffer<T>, len: usize) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { memory::copy_from_address(self, from, to, len) }
    }

    unsafe fn copy_to_address<T: Element>(&self, from: &NativeBuffer<T>, to: *mut T, len: usize) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { memory::copy_to_address(self, from, to, len) }
    }

    fn synchronize(&self) -> Result<()> {
        runtime!(self.engine.stream(), "synchronize", synchronize())
    }

    fn repeat(&self, recording: &mut graph::Recording, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        graph::repeat(self, recording, work)
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = event::Event::record(self)?;
        work()?;
        event::Event::record(self)?.seconds_since(&start)
    }

    operations! {
        embed: Embed => lm_ops::embed,
        layer_norm: LayerNorm => lm_ops::layer_norm,
        linear: Linear => lm_ops::linear,
        activate: Activate => lm_ops::activate,
        attention: Attention => lm_ops::attention,
        attention_pattern: AttentionPattern => lm_ops::attention_pattern,
        attention_mix: AttentionMix => lm_ops::attention_mix,
        add: Add => lm_ops::add,
        unembed_cross_entropy: UnembedCrossEntropy => lm_ops::unembed_cross_entropy,
        unembed_kl_divergence: UnembedKlDivergence => lm_ops::unembed_kl_divergence,
        sample_token: SampleToken => lm_ops::sample_token,
        gather_rows: GatherRows => sae_ops::gather_rows,
        scatter_rows: ScatterRows => sae_ops::scatter_rows,
        prepare_input: PrepareInput => sae_ops::prepare_input,
        encode_topk: EncodeTopk => sae_ops::encode_topk,
        encode_batch_topk: EncodeBatchTopk => sae_ops::encode_batch_topk,
        encode_jumprelu: EncodeJumpRelu => sae_ops::encode_jumprelu,
        encode_relu: EncodeRelu => sae_ops::encode_relu,
        encode_relu_dense: EncodeReluDense => sae_ops::encode_relu_dense,
        encode_dead_topk: EncodeDeadTopk => sae_ops::encode_dead_topk,
        decode_sparse: DecodeSparse => sae_ops::decode_sparse,
        decode_dense: DecodeDense => sae_ops::decode_dense,
        sparsity_lp: SparsityLp => sae_ops::sparsity_lp,
        sparsity_lp_dense: SparsityLpDense => sae_ops::sparsity_lp_dense,
        jumprelu_gradient: JumpReluGradient => sae_ops::jumprelu_gradient,
        pre_act_loss: PreActLoss => sae_ops::pre_act_loss,
        gate: Gate => sae_ops::gate,
        gate_gradient: GateGradient => sae_ops::gate_gradient,
        slice_lists: SliceLists => sae_ops::slice_lists,
        sum_by_latent: SumByLatent => sae_ops::sum_by_latent,
        gradient_values: GradientValues => sae_ops::gradient_values,
        transpose_lists: TransposeLists => sae_ops::transpose_lists,
        gradient_sparse: GradientSparse => sae_ops::gradient_sparse,
        gradient_squares: GradientSquares => sae_ops::gradient_squares,
        gradient_dense: GradientDense => sae_ops::gradient_dense,
        gradient_b_dec: GradientBDec => sae_ops::gradient_b_dec,
        clip_scale: ClipScale => sae_ops::clip_scale,
        adam: Adam => sae_ops::adam,
        adam_sparse: AdamSparse => sae_ops::adam_sparse,
        row_norms: RowNorms => sae_ops::row_norms,
        scale: Scale => sae_ops::scale,
        round_bf16: RoundBf16 => sae_ops::round_bf16,
        find_dead: FindDead => sae_ops::find_dead,
        update_firing: UpdateFiring => sae_ops::update_firing,
        note_non_finite: NoteNonFinite => sae_ops::note_non_finite,
        sum: Sum => sae_ops::sum,
        row_variance: RowVariance => sae_ops::row_variance,
        exponential: Exponential => sae_ops::exponential,
        ghost_error: GhostError => sae_ops::ghost_error,
    }
}
