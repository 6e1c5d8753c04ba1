//! Resampling: a dead latent starts again from an input that is reconstructed badly. Inputs of the latest
//! batches are drawn with probabilities in proportion to the squares of their losses `|x_hat - x|²`, none
//! twice; the latent's decoder row becomes the input's direction, its encoder row the same direction with
//! 0.2 of the mean norm of living latents', its other numbers what they were at the start, and Adam
//! knows nothing of it. A transcoder's decoder row becomes the direction of what was missing from the output
//! that belongs to the input, `y - y_hat`: an input is no direction of the output, and what the others give
//! already need not be learned again.
//! Source: Bricken et al. 2023, "Towards Monosemanticity", which computes all losses with the weights as they are
//! in the end; here each is that of its own step.

use super::parameters::Named;
use super::step::TrainingSae;
use crate::backend::*;
use crate::error::Result;
use crate::random::Random;

/// The encoder row's norm as a part of the living latents' mean.
const ENCODER_NORM: f64 = 0.2;

/// An input that may be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// `ln(u) / loss²` of a number `u` drawn for it: those with the largest are drawn.
    pub key: f64,
    /// The encoder's input `[d_in]`.
    pub input: Vec<f32>,
    /// What was missing from a transcoder's output `[d_in]`; empty of another SAE.
    pub missing: Vec<f32>,
}

/// The inputs that are drawn first, of all that were seen: a weighted sample, none twice.
/// Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates(pub Vec<Candidate>);

impl Candidates {
    /// Adds rows whose loss has a number, and keeps the `room` that are drawn first. `row` gives input and what
    /// was missing.
    fn add(&mut self, losses: &[f32], room: usize, random: &mut Random, row: impl Fn(usize) -> [Vec<f32>; 2]) {
        let least = if self.0.len() < room { f64::NEG_INFINITY } else { self.0.last().map_or(0.0, |last| last.key) };
        for (index, &loss) in losses.iter().enumerate() {
            let (u, weight) = (f64::from(random.uniform()), f64::from(loss).powi(2));
            let key = u.ln() / weight;
            if weight > 0.0 && weight.is_finite() && key > least {
                let [input, missing] = row(index);
                self.0.push(Candidate { key, input, missing });
            }
        }
        self.0.sort_by(|a, b| b.key.total_cmp(&a.key));
        self.0.truncate(room);
    }
}

impl<B: Backend> TrainingSae<B> {
    /// Lets the rows of the latest step's batch take part in the next drawing; as many as a batch has are kept.
    pub fn gather_candidates(&self, candidates: &mut Candidates, random: &mut Random) -> Result<()> {
        let (backend, d_in) = (&self.backend, self.config.d_in);
        let inputs = backend.download(&self.work.input)?;
        let mut losses = backend.download(&self.work.squared_error)?;
        for (loss, input) in losses.iter_mut().zip(inputs.chunks_exact(d_in)) {
            // Zeros have no direction.
            *loss *= f32::from(norm(input) > 0.0);
        }
        // The gradient of the mean squared error is 2 / B (y_hat - y).
        let gradient = if self.transcodes { backend.download(&self.work.output_gradient)? } else { Vec::new() };
        let row = |row: usize| {
            let missing = if self.transcodes { &gradient[row * d_in..][..d_in] } else { &[][..] };
            [inputs[row * d_in..][..d_in].to_vec(), missing.iter().map(|g| -g).collect()]
        };
        candidates.add(&losses, self.config.train_batch_size_tokens, random, row);
        Ok(())
    }

    /// Resamples dead latents from the candidates, at most one from each; returns how many. `vectors` are the
    /// parameters of one number for each latent, with the number that they start from.
    pub fn resample(&mut self, vectors: &[(&str, f32)], candidates: &Candidates) -> Result<usize> {
        let backend = self.backend.clone();
        let dead = self.dead_latents()?;
        let n = dead.len().min(candidates.0.len());
        if n == 0 {
            return Ok(0);
        }
        let encoder_norm = ENCODER_NORM * self.living_encoder_norm(&dead)?;
        let mut rows = Rows::new(&backend, &dead[..n])?;
        let chosen = candidates.0[..n].iter();
        let encoder = chosen.clone().flat_map(|candidate| of_norm(encoder_norm, &candidate.input)).collect();
        let decoder = |candidate: &Candidate| match candidate.missing.is_empty() {
            true => of_norm(1.0, &candidate.input),
            false => of_norm(1.0, &candidate.missing),
        };
        let matrices = [("W_dec", chosen.flat_map(decoder).collect()), ("W_enc", encoder)];
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

/// The direction of a row that is not 0, of this norm.
fn of_norm(size: f64, row: &[f32]) -> Vec<f32> {
    let factor = size / norm(row);
    row.iter().map(|&x| (factor * f64::from(x)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// The numbers of the rows that are drawn, of losses batch by batch.
    fn chosen(batches: &[&[f32]], n: usize, substream: u32) -> Vec<f32> {
        let (mut candidates, mut random) = (Candidates::default(), Random::new(1, Stream::Resampling, substream));
        let mut first = 0;
        for losses in batches {
            candidates.add(losses, n, &mut random, |row| [vec![(first + row) as f32], Vec::new()]);
            first += losses.len();
        }
        candidates.0.iter().map(|candidate| candidate.input[0]).collect()
    }

    /// 4000 draws: a share is away from its probability by at most 0.8 % (one standard deviation); five of
    /// them are allowed.
    #[test]
    fn rows_of_all_batches_are_drawn_in_proportion_to_the_square_of_their_loss() {
        let batches: [&[f32]; 2] = [&[1.0, 0.0, 3.0], &[2.0, f32::NAN]];
        let mut drawn = [0.0; 5];
        for substream in 0..4000 {
            drawn[chosen(&batches, 1, substream)[0] as usize] += 1.0 / 4000.0;
        }
        for (share, expected) in drawn.iter().zip([1.0, 0.0, 9.0, 4.0, 0.0]) {
            assert!((share - expected / 14.0f64).abs() < 0.04, "{drawn:?}");
        }
    }

    #[test]
    fn no_row_is_drawn_twice() {
        let mut chosen = chosen(&[&[1.0, 0.0], &[3.0, 2.0]], 9, 0);
        chosen.sort_by(f32::total_cmp);
        assert_eq!(chosen, [0.0, 2.0, 3.0]);
    }

    #[test]
    fn a_sample_of_two_batches_is_that_of_one_of_both() {
        assert_eq!(chosen(&[&[1.0, 0.5, 3.0], &[2.0, 4.0]], 2, 7), chosen(&[&[1.0, 0.5, 3.0, 2.0, 4.0]], 2, 7));
    }
}
