//! `cusae encode`: activations in a file to features, and where wanted to reconstructions.

use super::inputs::{open_sae, Rows};
use super::Common;
use cusae::backend::Backend;
use cusae::error::Result;
use cusae::formats::tensors::{self, Tensor};
use cusae::sae::features::SparseFeatures;
use cusae::sae::inference::Sae;
use safetensors::Dtype;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What to encode, with what, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// The SAE: a folder or file, RELEASE:ID, or REPOSITORY:PATH of the Hub.
    #[arg(long, value_name = "SAE")]
    sae: String,
    /// Activations [.., d_in]: FILE or FILE:TENSOR.
    #[arg(long, value_name = "FILE[:TENSOR]")]
    activations: String,
    /// Safetensors file to write: indptr, indices, values (compressed sparse rows).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write feature_acts [n, d_sae] instead; of a temporal SAE z_pred [n, d_sae], too.
    #[arg(long)]
    dense: bool,
    /// Write reconstruction too, of the activations' shape.
    #[arg(long)]
    reconstruct: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Summary {
    out: PathBuf,
    rows: usize,
    d_sae: usize,
    l0: f64,
}

/// Encodes and says how many features were active.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let sae = open_sae(backend, &args.sae)?;
    let config = sae.config();
    let rows = Rows::open(&args.activations, &Vec::from_iter(config.hook_name()), config.d_in)?;
    let Encoded { features, reconstruction, row_scale, row_shift, z_pred } =
        encode(&sae, &rows, args.reconstruct, args.dense)?;
    // Only now: rows that cannot be used are found on the way, and a refusal is one line.
    common.say_device();

    let (n, entries) = (rows.count, features.indices().len());
    let dense = if args.dense { features.to_dense(config.d_sae) } else { Vec::new() };
    let mut out = match args.dense {
        true => vec![("feature_acts", Tensor::f32(&[n, config.d_sae], &dense))],
        false => vec![
            ("indptr", offsets(features.indptr())),
            ("indices", Tensor::i64(&[entries], features.indices())),
            ("values", Tensor::f32(&[entries], features.values())),
        ],
    };
    if !z_pred.is_empty() {
        out.push(("z_pred", Tensor::f32(&[n, config.d_sae], &z_pred)));
    }
    if args.reconstruct {
        out.push(("reconstruction", Tensor::f32(&reconstruction_shape(&sae, &rows)?, &reconstruction)));
    }
    if sae.denormalizes() {
        out.push(("row_scale", Tensor::f32(&[n], &row_scale)));
        out.push(("row_shift", Tensor::f32(&[n], &row_shift)));
    }
    tensors::save(&args.out, out.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect())?;
    common.print(&Summary { out: args.out, rows: n, d_sae: config.d_sae, l0: entries as f64 / n as f64 })
}

/// All rows, encoded.
#[derive(Default)]
struct Encoded {
    features: SparseFeatures,
    /// `[n, d_out]`, where wanted.
    reconstruction: Vec<f32>,
    /// What `cusae decode` needs to undo a normalisation `[n]`, where the SAE has one.
    row_scale: Vec<f32>,
    row_shift: Vec<f32>,
    /// What a temporal SAE predicts `[n, d_sae]`, where wanted.
    z_pred: Vec<f32>,
}

fn encode<B: Backend>(sae: &Sae<B>, rows: &Rows, reconstruct: bool, predicted: bool) -> Result<Encoded> {
    let (backend, d_out) = (sae.backend(), sae.config().d_out());
    let context = sae.config().architecture.temporal().map_or(Ok(1), |_| rows.context())?;
    let chunk = sae.rows_at_once().next_multiple_of(context);
    let mut pass = sae.pass(chunk.min(rows.count))?;
    pass.set_context(context);
    let mut encoded = Encoded::default();
    for first in (0..rows.count).step_by(chunk) {
        let count = chunk.min(rows.count - first);
        let x = backend.upload(&rows.read(first, count)?)?;
        if reconstruct {
            pass.forward(sae, &x, count)?;
            encoded.reconstruction.resize((first + count) * d_out, 0.0);
            backend.read(pass.reconstruction(), 0, &mut encoded.reconstruction[first * d_out..])?;
        } else {
            pass.encode(sae, &x, count)?;
        }
        encoded.features.append(&pass.features(sae)?);
        if predicted {
            encoded.z_pred.extend(pass.predicted_codes(sae)?.unwrap_or_default());
        }
        if let Some((scale, shift)) = pass.row_normalization(sae)? {
            encoded.row_scale.extend(scale);
            encoded.row_shift.extend(shift);
        }
    }
    Ok(encoded)
}

/// The activations' shape; a transcoder's output is of another width, and has no heads.
fn reconstruction_shape<B: Backend>(sae: &Sae<B>, rows: &Rows) -> Result<Vec<usize>> {
    Ok(match sae.config().transcoder {
        None => rows.shape()?.to_vec(),
        Some(transcoder) => vec![rows.count, transcoder.d_out],
    })
}

fn offsets(indptr: &[usize]) -> Tensor<'static> {
    let bytes: Vec<u8> = indptr.iter().flat_map(|&offset| (offset as i64).to_le_bytes()).collect();
    Tensor { dtype: Dtype::I64, shape: vec![indptr.len()], bytes: bytes.into() }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { out, rows, d_sae, l0 } = self;
        write!(f, "{rows} activations, {l0:.1} of {d_sae} features active on each: {}", out.display())
    }
}
