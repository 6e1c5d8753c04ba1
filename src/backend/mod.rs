//! The seam between the trainer and a device: typed buffers and some thirty fused operations.
//!
//! Above this module nobody knows which device computes. A backend owns its buffers; there is no
//! tensor type: a matrix is a buffer plus named dimensions, row-major, last dimension contiguous.
//! Each operation takes one struct of arguments whose `check()` every backend calls first.
//!
//! Dimensions: `B` rows (tokens) in a batch, `D` = d_in, `F` = d_sae, `k` active latents,
//! `T` context, `H` heads, `V` vocabulary.

pub mod cpu;
mod device;
mod lm_ops;
mod matrix;
pub mod native;
mod sae_ops;

pub use cpu::Cpu;
pub use device::Device;
pub use lm_ops::*;
pub use matrix::{bf16, Matrix};
pub use native::Native;
pub use sae_ops::*;

use crate::error::{Error, Result};
use crate::machine::Memory;
use std::borrow::Cow;

/// A value that can live in a device buffer.
pub trait Element: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug {}
impl Element for f32 {}
impl Element for f64 {}
impl Element for u32 {}
impl Element for bf16 {}

/// An owned, contiguous, typed piece of a device's memory.
pub trait Buffer: Send + Sync {
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A device that can train and run: memory, and the operations of the language model and the SAE.
///
/// All numbers are f32 unless said otherwise; sums that are read by people are f64. A product with bf16
/// operands has f32 sums, in an order and with a rounding that the device chooses. Every operation
/// is deterministic: the same inputs give the same bits, for any number of threads. Operations write
/// to buffers only; nothing comes to the host but by `read`.
pub trait Backend: Clone + Send + Sync + Sized + 'static {
    /// A buffer of `T` on this device.
    type Buffer<T: Element>: Buffer;
    /// What [`Backend::repeat`] remembers of work; at first nothing.
    type Recording: Default + Send;

    /// What computes, in words for people.
    fn describe(&self) -> String;
    /// The memory that its buffers lie in, where the system tells.
    fn memory(&self) -> Option<Memory>;
    /// Whether two threads may use it at the same time.
    fn is_shared(&self) -> bool {
        false
    }
    /// Whether it is faster to write gradients of so many numbers and read them again than to sum them once for
    /// their norm and once more where Adam takes them. Most devices read memory more slowly than they add.
    fn writes_gradients(&self, _len: usize) -> bool {
        false
    }
    /// A buffer of `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// A buffer with a copy of `data`.
    fn upload<T: Element>(&self, data: &[T]) -> Result<Self::Buffer<T>>;
    /// Copies `data` into `to`, from element `offset` on.
    fn write<T: Element>(&self, to: &mut Self::Buffer<T>, offset: usize, data: &[T]) -> Result<()>;
    /// Copies `data.len()` elements of `from`, from element `offset` on, to the host.
    fn read<T: Element>(&self, from: &Self::Buffer<T>, offset: usize, data: &mut [T]) -> Result<()>;
    /// Copies `len` elements between two buffers of this device.
    fn copy<T: Element>(
        &self,
        from: &Self::Buffer<T>,
        from_offset: usize,
        to: &mut Self::Buffer<T>,
        to_offset: usize,
        len: usize,
    ) -> Result<()>;
    /// Sets every element to `value`.
    fn fill<T: Element>(&self, buffer: &mut Self::Buffer<T>, value: T) -> Result<()>;

    /// Copies `len` elements that lie at an address of this device's memory into a buffer, from its start
    /// on. On a GPU the copy is only queued.
    ///
    /// # Safety
    /// `len` elements at `from` can be read by the device, and do not change until the copy is done, which
    /// the next `read` or [`Backend::synchronize`] waits for.
    unsafe fn copy_from_address<T: Element>(&self, from: *const T, to: &mut Self::Buffer<T>, len: usize) -> Result<()>;

    /// Copies the first `len` elements of a buffer to an address of this device's memory. On a GPU the copy
    /// is only queued.
    ///
    /// # Safety
    /// `len` elements at `to` can be written by the device, and are not used until the copy is done.
    unsafe fn copy_to_address<T: Element>(&self, from: &Self::Buffer<T>, to: *mut T, len: usize) -> Result<()>;

    /// Waits until all that was queued is done. Error: of work before.
    fn synchronize(&self) -> Result<()>;

    /// All of a buffer where it can be read: itself, if it lies there.
    fn on_host<'a, T: Element>(&self, buffer: &'a Self::Buffer<T>) -> Result<Cow<'a, [T]>> {
        Ok(Cow::Owned(self.download(buffer)?))
    }

    /// A copy of all of a buffer, on the host.
    fn download<T: Element>(&self, from: &Self::Buffer<T>) -> Result<Vec<T>> {
        let mut data = vec![T::default(); from.len()];
        self.read(from, 0, &mut data)?;
        Ok(data)
    }

    /// Does work that is done again and again. It only queues operations, each time the same ones with
    /// the same numbers on the same buffers; with these the device may queue them from then on by
    /// itself, without calling `work`.
    fn repeat(&self, recording: &mut Self::Recording, work: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// Seconds that the device takes for the work that a function gives it, by its own clock.
    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;

    /// One element of a buffer, on the host.
    fn read_element<T: Element>(&self, from: &Self::Buffer<T>, at: usize) -> Result<T> {
        let mut element = [T::default()];
        self.read(from, at, &mut element)?;
        Ok(element[0])
    }

    // The language model: see lm_ops.rs.
    /// Token plus position embedding.
    fn embed(&self, op: Embed<'_, Self>) -> Result<()>;
    /// LayerNorm of every row.
    fn layer_norm(&self, op: LayerNorm<'_, Self>) -> Result<()>;
    /// Matrix product with bias, activation function and residual.
    fn linear(&self, op: Linear<'_, Self>) -> Result<()>;
    /// An activation function, element by element.
    fn activate(&self, op: Activate<'_, Self>) -> Result<()>;
    /// Causal self-attention.
    fn attention(&self, op: Attention<'_, Self>) -> Result<()>;
    /// The attention pattern alone.
    fn attention_pattern(&self, op: AttentionPattern<'_, Self>) -> Result<()>;
    /// Values mixed by an attention pattern.
    fn attention_mix(&self, op: AttentionMix<'_, Self>) -> Result<()>;
    /// `to += from`.
    fn add(&self, op: Add<'_, Self>) -> Result<()>;
    /// Next-token loss of every position, without the logits of all rows at once.
    fn unembed_cross_entropy(&self, op: UnembedCrossEntropy<'_, Self>) -> Result<()>;
    /// KL divergence between the next-token distributions of two runs, position by position.
    fn unembed_kl_divergence(&self, op: UnembedKlDivergence<'_, Self>) -> Result<()>;

    /// The next token of every row, drawn from its logits.
    fn sample_token(&self, op: SampleToken<'_, Self>) -> Result<()>;

    // The SAE: see sae_ops.
    /// Rows chosen by index from a matrix.
    fn gather_rows(&self, op: GatherRows<'_, Self>) -> Result<()>;
    /// Rows of one matrix into chosen rows of another.
    fn scatter_rows(&self, op: ScatterRows<'_, Self>) -> Result<()>;
    /// Normalises a batch and subtracts b_dec.
    fn prepare_input(&self, op: PrepareInput<'_, Self>) -> Result<()>;
    /// The k largest rectified pre-activations of every row, exactly.
    fn encode_topk(&self, op: EncodeTopk<'_, Self>) -> Result<()>;
    /// The positive pre-activations of every row as lists, and how long the longest is.
    fn encode_relu(&self, op: EncodeRelu<'_, Self>) -> Result<()>;
    /// The largest pre-activations of the whole batch, exactly, as lists, and how long the longest is.
    fn encode_batch_topk(&self, op: EncodeBatchTopk<'_, Self>) -> Result<()>;
    /// The pre-activations of every row above their thresholds as lists, and how long the longest is.
    fn encode_jumprelu(&self, op: EncodeJumpRelu<'_, Self>) -> Result<()>;
    /// The rectified pre-activations of every row, dense.
    fn encode_relu_dense(&self, op: EncodeReluDense<'_, Self>) -> Result<()>;
    /// The k dead latents with the largest pre-activations of every row (AuxK), signed.
    fn encode_dead_topk(&self, op: EncodeDeadTopk<'_, Self>) -> Result<()>;
    /// Reconstruction from lists, its error, and the gradient of each listed value.
    fn decode_sparse(&self, op: DecodeSparse<'_, Self>) -> Result<()>;
    /// Reconstruction from dense features, its error, and the gradient of each feature.
    fn decode_dense(&self, op: DecodeDense<'_, Self>) -> Result<()>;
    /// The decoder-norm-weighted p-norm sparsity term on lists.
    fn sparsity_lp(&self, op: SparsityLp<'_, Self>) -> Result<()>;
    /// The same term on dense features.
    fn sparsity_lp_dense(&self, op: SparsityLpDense<'_, Self>) -> Result<()>;
    /// JumpReLU's sparsity term and straight-through gradients.
    fn jumprelu_gradient(&self, op: JumpReluGradient<'_, Self>) -> Result<()>;
    /// The pre-activation loss of dead latents, and its gradients.
    fn pre_act_loss(&self, op: PreActLoss<'_, Self>) -> Result<()>;
    /// From open gates to the features they let through.
    fn gate(&self, op: Gate<'_, Self>) -> Result<()>;
    /// From the gradients of gated features to those of what they are made of.
    fn gate_gradient(&self, op: GateGradient<'_, Self>) -> Result<()>;
    /// The listed features of a range of latents.
    fn slice_lists(&self, op: SliceLists<'_, Self>) -> Result<()>;
    /// The sum of one number per listed feature, latent by latent.
    fn sum_by_latent(&self, op: SumByLatent<'_, Self>) -> Result<()>;
    /// The gradient of each listed value from that of the decoder's output.
    fn gradient_values(&self, op: GradientValues<'_, Self>) -> Result<()>;
    /// Lists by row turned into lists by latent.
    fn transpose_lists(&self, op: TransposeLists<'_, Self>) -> Result<()>;
    /// Gradients of W_enc, b_enc and W_dec from lists by latent.
    fn gradient_sparse(&self, op: GradientSparse<'_, Self>) -> Result<()>;
    /// Of gradients that lists stand for: the squares of each latent's, and that of b_enc.
    fn gradient_squares(&self, op: GradientSquares<'_, Self>) -> Result<()>;
    /// Gradients of W_enc, b_enc and W_dec from dense features.
    fn gradient_dense(&self, op: GradientDense<'_, Self>) -> Result<()>;
    /// Gradient of b_dec.
    fn gradient_b_dec(&self, op: GradientBDec<'_, Self>) -> Result<()>;
    /// Global norm of all gradients and the factor that clips it.
    fn clip_scale(&self, op: ClipScale<'_, Self>) -> Result<()>;
    /// One step of Adam over one parameter.
    fn adam(&self, op: Adam<'_, Self>) -> Result<()>;
    /// One step of Adam over W_enc and W_dec, whose gradients lists stand for.
    fn adam_sparse(&self, op: AdamSparse<'_, Self>) -> Result<()>;
    /// L2 norm of every row.
    fn row_norms(&self, op: RowNorms<'_, Self>) -> Result<()>;
    /// `to = factor * from`.
    fn scale(&self, op: Scale<'_, Self>) -> Result<()>;
    /// f32 rounded to bf16.
    fn round_bf16(&self, op: RoundBf16<'_, Self>) -> Result<()>;
    /// The latents that have not fired for too long.
    fn find_dead(&self, op: FindDead<'_, Self>) -> Result<()>;
    /// How often each latent fired in a batch, and since when it has not.
    fn update_firing(&self, op: UpdateFiring<'_, Self>) -> Result<()>;
    /// The first step whose numbers are not finite.
    fn note_non_finite(&self, op: NoteNonFinite<'_, Self>) -> Result<()>;
    /// Sum of values, in f64.
    fn sum(&self, op: Sum<'_, Self>) -> Result<()>;
    /// Squared distance of every row to the batch's mean row.
    fn row_variance(&self, op: RowVariance<'_, Self>) -> Result<()>;
    /// `to = factor e^x`.
    fn exponential(&self, op: Exponential<'_, Self>) -> Result<()>;
    /// How far dead latents are from the error that they are to reconstruct, and the gradient of that.
    fn ghost_error(&self, op: GhostError<'_, Self>) -> Result<()>;
}

/// Fails with a sentence when a buffer holds fewer elements than an operation will touch.
pub(crate) fn need(operation: &'static str, name: &str, have: usize, want: usize) -> Result<()> {
    if have < want {
        return Err(Error::Shape { operation, what: format!("{name} holds {have} elements, {want} are needed") });
    }
    Ok(())
}

/// Fails with a sentence when a condition on the dimensions does not hold.
pub(crate) fn require(operation: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Shape { operation, what: what() })
}
