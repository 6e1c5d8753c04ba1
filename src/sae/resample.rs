//! Resampling: a dead latent starts again from an input that is reconstructed badly. Inputs of the latest
//! batch are drawn with probabilities in proportion to the squares of their losses `|x_hat - x|²`, none
//! twice; the latent's decoder row becomes the input's direction, its encoder row the same direction with
//! 0.2 of the mean norm of living latents', its other numbers what they were at the start, and Adam
//! knows nothing of it.
//! Source: Bricken et al. 2023, "Towards Monosemanticity", which looks at more inputs than one batch.

use super::parameters::Named;
use super::step::TrainingSae;
use crate::backend::*;
use crate::error::Result;
use crate::random::Random;

/// The encoder row's norm as a part of the living latents' mean.
const ENCODER_NORM: f64 = 0.2;

impl<B: Backend> TrainingSae<B> {
    /// Resamples dead latents after a step, at most one for each row of its batch; returns how many.
    /// `vectors` are the parameters of one number for each latent, with the number that they start from.
    pub fn resample(&mut self, vectors: &[(&str, f32)], random: &mut Random) -> Result<usize> {
        let backend = self.backend.clone();
        let d_in = self.config.d_in;
        let dead = self.dead_latents()?;
        let inputs = backend.download(&self.work.input)?;
        let mut losses = backend.download(&self.work.squared_error)?;
        for (loss, input) in losses.iter_mut().zip(inputs.chunks_exact(d_in)) {
            // Zeros have no direction.
            *loss *= f32::from(norm(input) > 0.0);
        }
        let chosen = choose(&losses, dead.len(), random);
        let n = chosen.len();
        if n == 0 {
            return Ok(0);
        }
        let encoder_norm = ENCODER_NORM * self.living_encoder_norm(&dead)?;
        let mut rows = Rows::new(&backend, &dead[..n])?;
        let directions = |size: f64| -> Vec<f32> {
            let of_row = |&row: &usize| {
                let input = &inputs[row * d_in..][..d_in];
                let factor = size / norm(input);
                input.iter().map(move |&x| (factor * f64::from(x)) as f32)
            };
            chosen.iter().flat_map(of_row).collect()
        };
        let matrices = [("W_dec", directions(1.0)), ("W_enc", directions(encoder_norm))];
        let vectors = vectors.iter().map(|&(name, start)| (name, vec![start; n]));
        for (name, values) in matrices.into_iter().chain(vectors) {
            rows.write(&backend, &mut self.values, name, &values)?;
            if let Some(average) = &mut self.average {
                rows.write(&backend, &mut average.values, name, &values)?;
            }
            for moments in [&mut self.exp_avg, &mut self.exp_avg_sq] {
                rows.write(&backend, moments, name, &vec![0.0; values.len()])?;
            }
        }
        let mut since_fired = backend.download(&self.firing.since_fired)?;
        dead[..n].iter().for_each(|&latent| since_fired[latent as usize] = 0);
        backend.write(&mut self.firing.since_fired, 0, &since_fired)?;
        self.parameters_changed()?;
        Ok(n)
    }

    fn dead_latents(&mut self) -> Result<Vec<u32>> {
        let mut latents = vec![0; self.count_dead()?];
        self.backend.read(&self.work.dead.latents, 0, &mut latents)?;
        Ok(latents)
    }

    /// The mean norm of the encoder's rows of latents that are not dead; of all, if none lives.
    fn living_encoder_norm(&self, dead: &[u32]) -> Result<f64> {
        let (rows, columns) = (self.config.d_sae, self.config.d_in);
        let mut norms = self.backend.zeros(rows)?;
        self.backend.row_norms(RowNorms { matrix: self.values.get("W_enc"), rows, columns, norms: &mut norms })?;
        let mut norms = self.backend.download(&norms)?;
        if dead.len() < rows {
            // Dead latents ascend: what was not looked at yet stays where it is.
            dead.iter().rev().for_each(|&latent| _ = norms.remove(latent as usize));
        }
        Ok(norms.iter().map(|&norm| f64::from(norm)).sum::<f64>() / norms.len() as f64)
    }
}

/// Where rows go.
struct Rows<B: Backend> {
    n: usize,
    from: B::Buffer<u32>,
    to: B::Buffer<u32>,
}

impl<B: Backend> Rows<B> {
    fn new(backend: &B, latents: &[u32]) -> Result<Self> {
        let from: Vec<u32> = (0..latents.len() as u32).collect();
        Ok(Rows { n: latents.len(), from: backend.upload(&from)?, to: backend.upload(latents)? })
    }

    /// Writes `values [n, columns]` into a parameter's rows.
    fn write(&mut self, backend: &B, named: &mut Named<B>, name: &str, values: &[f32]) -> Result<()> {
        let (from, columns) = (&backend.upload(values)?, values.len() / self.n);
        let (from_rows, to_rows, to) = (&self.from, &self.to, named.get_mut(name));
        backend.scatter_rows(ScatterRows { from, from_rows, to_rows, n: self.n, columns, to })
    }
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// At most `n` different rows, drawn one after the other with probabilities in proportion to `loss²`: those
/// with the largest `ln(u) / loss²`. Rows whose loss is 0 or not finite are not drawn.
/// Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
fn choose(losses: &[f32], n: usize, random: &mut Random) -> Vec<usize> {
    let mut keys: Vec<(f64, usize)> = Vec::with_capacity(losses.len());
    for (row, &loss) in losses.iter().enumerate() {
        let (u, weight) = (f64::from(random.uniform()), f64::from(loss).powi(2));
        if weight > 0.0 && weight.is_finite() {
            keys.push((u.ln() / weight, row));
        }
    }
    keys.sort_by(|a, b| b.0.total_cmp(&a.0));
    keys.into_iter().take(n).map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// 4000 draws: a share is away from its probability by at most 0.8 % (one standard deviation); five of
    /// them are allowed.
    #[test]
    fn rows_are_drawn_in_proportion_to_the_square_of_their_loss() {
        let losses = [1.0, 0.0, 3.0, 2.0, f32::NAN];
        let mut drawn = [0.0; 5];
        for substream in 0..4000 {
            let chosen = choose(&losses, 1, &mut Random::new(1, Stream::Resampling, substream));
            drawn[chosen[0]] += 1.0 / 4000.0;
        }
        for (share, expected) in drawn.iter().zip([1.0, 0.0, 9.0, 4.0, 0.0]) {
            assert!((share - expected / 14.0f64).abs() < 0.04, "{drawn:?}");
        }
    }

    #[test]
    fn no_row_is_drawn_twice() {
        let mut chosen = choose(&[1.0, 0.0, 3.0, 2.0], 9, &mut Random::new(1, Stream::Resampling, 0));
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 2, 3]);
    }
}
