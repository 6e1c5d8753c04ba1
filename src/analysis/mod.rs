//! Looking inside: a model with SAEs spliced in, the features of its tokens, what they do to the next
//! token, and generation with features changed.

mod ablate;
mod attribute;
mod compare;
mod features;
mod splice;
mod steer;

pub use ablate::{ablate, Ablation, AblationRequest, Effects, Outcome};
pub use attribute::{attribute, Attribution};
pub use compare::{compare, ComparedFeature, Comparison};
pub use features::{top_of_row, FeatureReader};
pub use splice::{Change, FeatureEdit, Splice, Splices};
pub use steer::{steer, Positions, Steering};
