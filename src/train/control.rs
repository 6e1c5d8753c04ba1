//! The control of a sparsity coefficient: `target_l0` says how many latents of a token are to be active,
//! and the coefficient is moved until they are. It is an integral control of logarithms: as long as L0
//! is a factor away from the target, the coefficient is multiplied again and again.

use crate::config::{JumpReluSparsityLossMode, Recipe};
use crate::sae::kind;

/// Steps between looks at L0, which wait for the device.
const EVERY: u64 = 10;
/// Where L0 is `e` times the target, a look multiplies the coefficient by `exp` of this. A larger one would
/// overshoot: L0 follows the coefficient only after some hundred steps.
const GAIN: f64 = 0.1;
/// How far the coefficient may go from the recipe's, up or down: a target out of reach must not end in infinity.
const FARTHEST: f64 = 1e4;

/// What is done to a coefficient for the sake of L0.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetL0 {
    target: f64,
    /// Steps in which the coefficient still rises from 0.
    warm_up_steps: u64,
    /// What the coefficient is multiplied by so far.
    pub factor: f64,
}

impl TargetL0 {
    /// As the recipe says; none where it has no target, or the architecture no coefficient to reach it by.
    pub fn of(recipe: &Recipe) -> Option<Self> {
        let quadratic = recipe.jumprelu_sparsity_loss_mode == JumpReluSparsityLossMode::Quadratic;
        if recipe.architecture.has_thresholds() && quadratic {
            // The loss itself aims at the target.
            return None;
        }
        let warm_up_steps = kind::of(recipe).coefficient(recipe)?.warm_up_steps as u64;
        recipe.target_l0.map(|target| TargetL0 { target, warm_up_steps, factor: 1.0 })
    }

    /// Whether it wants to know L0 after so many steps.
    pub fn is_due(&self, steps: u64) -> bool {
        steps > self.warm_up_steps && steps.is_multiple_of(EVERY)
    }

    /// Takes in what L0 is now.
    pub fn observe(&mut self, l0: f64) {
        let error = (l0 / self.target).ln().clamp(-1.0, 1.0);
        self.factor = (self.factor * (GAIN * error).exp()).clamp(1.0 / FARTHEST, FARTHEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coefficient_grows_while_too_many_latents_are_active_and_falls_while_too_few_are() {
        let mut control = TargetL0 { target: 8.0, warm_up_steps: 20, factor: 1.0 };
        assert_eq!([10, 20, 25, 30].map(|steps| control.is_due(steps)), [false, false, false, true]);
        control.observe(16.0);
        // 2 to the power of the gain.
        assert!((control.factor - 2f64.powf(0.1)).abs() < 1e-12);
        control.observe(4.0);
        assert!((control.factor - 1.0).abs() < 1e-12);
        control.observe(8.0);
        assert!((control.factor - 1.0).abs() < 1e-12);
        // However far away, a look changes it by a tenth, no more.
        control.observe(0.0);
        assert!((control.factor - (-0.1f64).exp()).abs() < 1e-12);
        // A target out of reach.
        (0..10_000).for_each(|_| control.observe(1e6));
        assert_eq!(control.factor, 1e4);
        (0..10_000).for_each(|_| control.observe(0.0));
        assert_eq!(control.factor, 1e-4);
    }
}
