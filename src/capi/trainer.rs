//! SAEs in training.

use super::numbers::{Input, Memory};
use super::pointers::{c_text, hand_out, lock, put, reference, take_back, text};
use super::status::{answer, argument, Failure};
use super::{Engine, SaeHandle, Sizes};
use crate::backend::{Backend, Device};
use crate::config::{Auto, Recipe};
use crate::error::{Error, Result};
use crate::sae::report::StepReport;
use crate::train::Trainer;
use std::ffi::{c_char, c_int, CString};
use std::path::Path;
use std::sync::Mutex;

/// `cusae_trainer`.
pub struct TrainerHandle {
    sizes: Sizes,
    rows: usize,
    recipe: CString,
    state: Mutex<State>,
}

struct State {
    trainer: Box<dyn AnyTrainer>,
    /// What the latest report points to.
    losses: Losses,
}

#[derive(Default)]
struct Losses {
    names: Vec<CString>,
    views: Vec<LossView>,
}

/// `cusae_loss`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LossView {
    /// SAELens' name.
    pub name: *const c_char,
    /// The mean over the batch.
    pub value: f64,
}

// SAFETY: the name is one of the handle's own, which is not written while somebody reads.
unsafe impl Send for LossView {}

/// `cusae_report`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ReportView {
    /// Steps done.
    pub step: u64,
    /// Sum of all terms.
    pub overall_loss: f64,
    /// Mean number of active latents in a row.
    pub l0: f64,
    /// Part of the batch's variance that is explained.
    pub explained_variance: f64,
    /// Norm of the gradient of all weights.
    pub grad_norm: f64,
    /// Dead latents.
    pub n_dead: u64,
    /// The loss' terms.
    pub losses: *const LossView,
    /// How many.
    pub n_losses: usize,
}

/// A trainer on a device of any kind.
trait AnyTrainer: Send {
    fn steps(&self) -> u64;
    fn set_input_scale(&mut self, factor: f32) -> Result<()>;
    fn step(&mut self, x: &[f32]) -> Result<()>;
    /// # Safety
    /// As of [`Trainer::step_at`].
    unsafe fn step_at(&mut self, x: *const f32) -> Result<()>;
    fn report(&mut self) -> Result<StepReport>;
    fn sae(&self) -> Result<SaeHandle>;
    fn save(&mut self, folder: &Path) -> Result<()>;
}

impl<B: Backend> AnyTrainer for Trainer<B> {
    fn steps(&self) -> u64 {
        Trainer::steps(self)
    }

    fn set_input_scale(&mut self, factor: f32) -> Result<()> {
        Trainer::set_input_scale(self, factor)
    }

    fn step(&mut self, x: &[f32]) -> Result<()> {
        Trainer::step(self, x)
    }

    unsafe fn step_at(&mut self, x: *const f32) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { Trainer::step_at(self, x) }
    }

    fn report(&mut self) -> Result<StepReport> {
        Trainer::report(self)
    }

    fn sae(&self) -> Result<SaeHandle> {
        Trainer::sae(self).map(SaeHandle::new)
    }

    fn save(&mut self, folder: &Path) -> Result<()> {
        Trainer::save(self, folder)
    }
}

impl TrainerHandle {
    fn new<B: Backend>(backend: &B, recipe: &Recipe, d_in: usize) -> Result<TrainerHandle> {
        let trainer = Trainer::new(backend, recipe, d_in)?;
        Ok(TrainerHandle {
            sizes: Sizes::from(trainer.config()),
            rows: trainer.rows(),
            recipe: c_text(trainer.recipe().to_toml()),
            state: Mutex::new(State { trainer: Box::new(trainer), losses: Losses::default() }),
        })
    }
}

/// The recipe of a text, with a number of latents that is given beside it.
fn recipe_of(text: Option<&str>, d_sae: usize) -> Result<Recipe> {
    let mut recipe = match text {
        Some(text) => Recipe::from_toml(Path::new("recipe"), text)?,
        None => Recipe::default(),
    };
    match recipe.d_sae {
        _ if d_sae == 0 => {}
        Auto::Value(stated) if stated != d_sae => {
            let what = format!("the recipe says {stated}, the call {d_sae}; give one of them");
            return Err(Error::config("d_sae", what));
        }
        _ => recipe.d_sae = Auto::Value(d_sae),
    }
    Ok(recipe)
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_create(
    engine: *const Engine,
    d_in: usize,
    d_sae: usize,
    recipe: *const c_char,
    out: *mut *mut TrainerHandle,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let engine = unsafe { reference(engine, "engine") }?;
        // SAFETY: as the caller promises.
        let text = (!recipe.is_null()).then(|| unsafe { text(recipe, "recipe") }).transpose()?;
        let make = || {
            let recipe = recipe_of(text, d_sae)?;
            Ok(match &engine.device {
                Device::Cpu(cpu) => TrainerHandle::new(cpu, &recipe, d_in)?,
                Device::Native(native) => TrainerHandle::new(native, &recipe, d_in)?,
            })
        };
        // SAFETY: as the caller promises.
        unsafe { hand_out(out, make) }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The trainer is null or one that was handed out, and is not used any more.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_destroy(trainer: *mut TrainerHandle) {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { take_back(trainer) };
        Ok(())
    });
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_sizes(trainer: *const TrainerHandle, out: *mut Sizes) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { put(out, reference(trainer, "trainer")?.sizes, "out") }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The trainer is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_rows(trainer: *const TrainerHandle) -> usize {
    // SAFETY: as the caller promises.
    unsafe { trainer.as_ref() }.map_or(0, |trainer| trainer.rows)
}

/// See `include/cusae.h`.
///
/// # Safety
/// The trainer is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_recipe(trainer: *const TrainerHandle) -> *const c_char {
    // SAFETY: as the caller promises.
    unsafe { trainer.as_ref() }.map_or(std::ptr::null(), |trainer| trainer.recipe.as_ptr())
}

/// See `include/cusae.h`.
///
/// # Safety
/// The trainer is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_set_input_scale(trainer: *mut TrainerHandle, factor: f32) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let trainer = unsafe { reference(trainer, "trainer") }?;
        let set = lock(&trainer.state)?.trainer.set_input_scale(factor);
        set.map_err(|error| match error {
            Error::Shape { .. } => argument(error.to_string()),
            other => other.into(),
        })
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_train_step(
    trainer: *mut TrainerHandle,
    x: *const f32,
    rows: usize,
    memory: c_int,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let trainer = unsafe { reference(trainer, "trainer") }?;
        if rows != trainer.rows {
            let what = format!("a batch of {rows} rows, expected train_batch_size_tokens = {}", trainer.rows);
            return Err(argument(what));
        }
        let x = Input::new(x, rows, memory)?;
        let in_training = &mut lock(&trainer.state)?.trainer;
        match x.memory {
            // SAFETY: as the caller promises.
            Memory::Host => in_training.step(unsafe { x.on_host(0, rows, trainer.sizes.d_in) })?,
            // SAFETY: as the caller promises.
            Memory::Device => unsafe { in_training.step_at(x.at) }?,
        }
        Ok(())
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_report(trainer: *mut TrainerHandle, out: *mut ReportView) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let trainer = unsafe { reference(trainer, "trainer") }?;
        let mut state = lock(&trainer.state)?;
        let view = state.report()?;
        // SAFETY: as the caller promises.
        unsafe { put(out, view, "out") }
    })
}

impl State {
    fn report(&mut self) -> Result<ReportView, Failure> {
        let step = self.trainer.steps();
        if step == 0 {
            return Err(argument("no step was done yet"));
        }
        let report = self.trainer.report()?;
        let names: Vec<_> = report.losses.iter().map(|(name, _)| c_text(name.to_string())).collect();
        let views = names.iter().zip(&report.losses);
        let views = views.map(|(name, &(_, value))| LossView { name: name.as_ptr(), value }).collect();
        self.losses = Losses { names, views };
        Ok(ReportView {
            step,
            overall_loss: report.overall_loss(),
            l0: report.l0,
            explained_variance: report.explained_variance.expect("it was asked for").pooled,
            grad_norm: report.grad_norm,
            n_dead: report.n_dead as u64,
            losses: self.losses.views.as_ptr(),
            n_losses: self.losses.names.len(),
        })
    }
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_sae(trainer: *const TrainerHandle, out: *mut *mut SaeHandle) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let trainer = unsafe { reference(trainer, "trainer") }?;
        // SAFETY: as the caller promises.
        unsafe { hand_out(out, || Ok(lock(&trainer.state)?.trainer.sae()?)) }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_trainer_save(trainer: *mut TrainerHandle, folder: *const c_char) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let (trainer, folder) = unsafe { (reference(trainer, "trainer")?, text(folder, "folder")?) };
        lock(&trainer.state)?.trainer.save(Path::new(folder))?;
        Ok(())
    })
}
