//! How fast this machine is: a measurement of a fraction of a second.

use crate::backend::{ActivationFunction, Adam, AdamConstants, Backend, Linear, Matrix, StepScalars};
use crate::error::Result;
use serde::Serialize;
use std::time::Instant;

/// What a plan's time is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Floating-point operations of a dense product by the second.
    pub dense: f64,
    /// Parameters that Adam updates by the second.
    pub adam: f64,
}

impl Rates {
    /// Times a product of 1024 x 512 x 1024 and Adam on four million parameters, each the best of
    /// five, as other processes can only slow them down.
    pub fn measure<B: Backend>(backend: &B) -> Result<Self> {
        Ok(Rates { dense: dense_rate(backend)?, adam: adam_rate(backend)? })
    }
}

fn best_of_five(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    (0..5).try_fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        run()?;
        Ok(best.min(start.elapsed().as_secs_f64()))
    })
}

fn dense_rate<B: Backend>(backend: &B) -> Result<f64> {
    let (rows, d_input, d_output) = (1024, 512, 1024);
    let x = backend.upload(&vec![0.5; rows * d_input])?;
    let w = backend.upload(&vec![0.25; d_input * d_output])?;
    let mut out = backend.zeros(rows * d_output)?;
    let seconds = best_of_five(|| {
        backend.linear(Linear {
            x: Matrix::F32(&x),
            w: Matrix::F32(&w),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows,
            d_input,
            d_output,
            out: &mut out,
        })?;
        // Reading a number waits for the device.
        backend.read(&out, 0, &mut [0.0])
    })?;
    Ok(2.0 * (rows * d_input * d_output) as f64 / seconds)
}

fn adam_rate<B: Backend>(backend: &B) -> Result<f64> {
    let n = 1 << 22;
    let gradient = backend.zeros(n)?;
    let [mut parameter, mut exp_avg, mut exp_avg_sq] = [backend.zeros(n)?, backend.zeros(n)?, backend.zeros(n)?];
    let clip = backend.upload(&[1.0, 0.0])?;
    let (beta1, beta2) = (0.9, 0.999);
    let scalars = backend.upload(&[StepScalars::new(1, 1e-3, [beta1, beta2], 0.0)])?;
    let seconds = best_of_five(|| {
        backend.adam(Adam {
            parameter: &mut parameter,
            gradient: &gradient,
            exp_avg: &mut exp_avg,
            exp_avg_sq: &mut exp_avg_sq,
            clip: &clip,
            scalars: &scalars,
            constants: AdamConstants { beta1, beta2, epsilon: 1e-8 },
        })?;
        backend.read(&parameter, 0, &mut [0.0])
    })?;
    Ok(n as f64 / seconds)
}
