//! `cusae decode`: features in a file, as `cusae encode` writes them, back to activations.

use super::inputs::open_sae;
use super::Common;
use cusae::backend::Backend;
use cusae::error::{Error, Result};
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::sae::features::SparseFeatures;
use cusae::sae::inference::Sae;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// What to decode, with what, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// The SAE: a folder or file, RELEASE:ID, or REPOSITORY:PATH of the Hub.
    #[arg(long, value_name = "SAE")]
    sae: String,
    /// Features: a file with indptr, indices, values, or with feature_acts [n, d_sae].
    #[arg(long, value_name = "FILE")]
    features: PathBuf,
    /// Safetensors file to write: reconstruction [n, d_in], or a transcoder's d_out.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What is printed.
#[derive(Serialize)]
struct Summary {
    out: PathBuf,
    rows: usize,
    d_out: usize,
}

/// Decodes.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let sae = open_sae(backend, &args.sae)?;
    let (d_out, d_sae) = (sae.config().d_out(), sae.config().d_sae);
    let features = read_features(&args.features, d_sae)?;
    let normalization = read_normalization(&args.features, &sae, features.rows())?;
    common.say_device();
    let reconstruction = decode(&sae, &features, normalization)?;
    let rows = features.rows();
    tensors::save(&args.out, vec![("reconstruction".into(), Tensor::f32(&[rows, d_out], &reconstruction))])?;
    common.print(&Summary { out: args.out, rows, d_out })
}

fn read_features(path: &Path, d_sae: usize) -> Result<SparseFeatures> {
    let file = TensorFile::open(path)?;
    let wrong = |what: String| Error::format(path, what);
    let features = if file.contains("feature_acts") {
        let [rows, _] = file.shape("feature_acts")?[..] else {
            return Err(wrong("tensor feature_acts has not two dimensions, expected [n, d_sae]".into()));
        };
        SparseFeatures::from_dense(&file.f32_shaped("feature_acts", &[rows, d_sae])?, d_sae)
    } else if ["indptr", "indices", "values"].iter().all(|name| file.contains(name)) {
        let indptr = file.u32("indptr")?.into_iter().map(|offset| offset as usize).collect();
        SparseFeatures::from_parts(indptr, file.u32("indices")?, file.f32("values")?)
            .map_err(|error| wrong(error.to_string()))?
    } else {
        let found = file.names().join(", ");
        return Err(wrong(format!("holds {found}, expected indptr, indices and values, or feature_acts")));
    };
    if features.rows() == 0 {
        return Err(wrong("holds no rows".into()));
    }
    if let Some(latent) = features.indices().iter().find(|&&latent| latent as usize >= d_sae) {
        return Err(wrong(format!("holds feature {latent}, expected features below the SAE's d_sae = {d_sae}")));
    }
    if let Some(value) = features.values().iter().find(|value| !value.is_finite()) {
        return Err(wrong(format!("holds a feature's value {value}, expected finite numbers")));
    }
    Ok(features)
}

/// Scale and shift of every row, if the SAE normalises activations.
fn read_normalization<B: Backend>(path: &Path, sae: &Sae<B>, rows: usize) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
    if !sae.denormalizes() {
        return Ok(None);
    }
    let file = TensorFile::open(path)?;
    if !file.contains("row_scale") || !file.contains("row_shift") {
        let what = format!(
            "holds no row_scale and row_shift, which this SAE needs to undo its normalize_activations = {}; \
             encode the activations with cusae encode, which writes them",
            sae.config().normalize_activations
        );
        return Err(Error::format(path, what));
    }
    Ok(Some((file.f32_shaped("row_scale", &[rows])?, file.f32_shaped("row_shift", &[rows])?)))
}

fn decode<B: Backend>(
    sae: &Sae<B>,
    features: &SparseFeatures,
    normalization: Option<(Vec<f32>, Vec<f32>)>,
) -> Result<Vec<f32>> {
    let (rows, d_out) = (features.rows(), sae.config().d_out());
    let at_once = sae.rows_at_once();
    let mut pass = sae.pass(at_once.min(rows))?;
    let mut reconstruction = vec![0.0; rows * d_out];
    for (chunk, out) in reconstruction.chunks_mut(at_once * d_out).enumerate() {
        let (first, count) = (chunk * at_once, out.len() / d_out);
        let chunk = first..first + count;
        let part = normalization.as_ref().map(|(scale, shift)| (&scale[chunk.clone()], &shift[chunk]));
        pass.set_features(sae, features, first, count, part)?;
        pass.decode(sae)?;
        sae.backend().read(pass.reconstruction(), 0, out)?;
    }
    Ok(reconstruction)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} reconstructions of {} values: {}", self.rows, self.d_out, self.out.display())
    }
}
