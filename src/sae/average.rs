//! The exponential moving average of an SAE's weights, `decay * average + (1 - decay) * weights` after
//! every step, from the first weights on: smoother than the weights that it follows.

use super::parameters::Named;
use crate::backend::{Add, Backend, Buffer, Scale};
use crate::error::Result;

/// An average that follows some parameters.
pub struct Average<B: Backend> {
    decay: f32,
    /// The average, by the parameters' names.
    pub values: Named<B>,
    work: Named<B>,
}

impl<B: Backend> Average<B> {
    /// Starts where the parameters are.
    pub fn new(backend: &B, decay: f64, parameters: &Named<B>) -> Result<Self> {
        let mut values = Named::zeros_like(backend, parameters)?;
        for ((_, to), (_, from)) in values.iter_mut().zip(parameters.iter()) {
            backend.copy(from, 0, to, 0, from.len())?;
        }
        Ok(Average { decay: decay as f32, values, work: Named::zeros_like(backend, parameters)? })
    }

    /// Takes in what the parameters are after a step.
    pub fn update(&mut self, backend: &B, parameters: &Named<B>) -> Result<()> {
        let averages = self.values.iter_mut().zip(self.work.iter_mut());
        for (((_, average), (_, work)), (_, parameter)) in averages.zip(parameters.iter()) {
            let len = parameter.len();
            backend.scale(Scale { from: average, factor: self.decay, len, to: work })?;
            backend.scale(Scale { from: parameter, factor: 1.0 - self.decay, len, to: average })?;
            backend.add(Add { from: work, to: average, len })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Cpu;
    use crate::sae::weights::{HostTensor, Weights};

    fn parameters(value: f32) -> Named<Cpu> {
        let mut weights = Weights::default();
        weights.insert("b_dec", HostTensor { shape: vec![1], values: vec![value] });
        Named::upload(&Cpu, &weights).unwrap()
    }

    #[test]
    fn the_first_weights_and_each_that_follows_count_by_powers_of_the_decay() {
        let mut average = Average::new(&Cpu, 0.75, &parameters(16.0)).unwrap();
        for value in [4.0, 8.0] {
            average.update(&Cpu, &parameters(value)).unwrap();
        }
        // 16 * 0.75² + 4 * 0.25 * 0.75 + 8 * 0.25, all exact.
        assert_eq!(average.values.get("b_dec"), &[11.75]);
    }
}
