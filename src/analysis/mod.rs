//! Looking inside: a model with SAEs spliced in, the features of its tokens, what they do to the next
//! token, and generation with features changed.

mod ablate;
mod attribute;
mod compare;
mod dashboard;
mod features;
mod index;
mod neuronpedia;
mod neurons;
mod splice;
mod statistics;
mod steer;
mod store;
mod weights;

pub use ablate::{ablate, Ablation, AblationRequest, Effects, Outcome};
pub use attribute::{attribute, Attribution};
pub use compare::{compare, ComparedFeature, Comparison};
pub use dashboard::Dashboard;
pub use features::{top_of_row, FeatureReader};
pub use index::{FeatureIndex, IndexWriter, Place, TokenFeatures};
pub use neuronpedia::{neuronpedia_layer, TABLE_ROWS};
pub use neurons::NeuronSums;
pub use splice::{Change, FeatureEdit, Splice, Splices};
pub use statistics::{statistics, Correlated, FeatureStatistics, StatisticsSettings, QUANTILES};
pub use steer::{steer, Positions, Steering};
pub use store::save;
pub use weights::{weight_statistics, LogitHistogram, WeightStatistics};
