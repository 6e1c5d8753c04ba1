//! What the page asks while somebody types: the features of a prompt, and text with features changed.

use super::http::{send, send_head, Refusal, Request};
use crate::cli::look::{GrowingText, Look, Prompt};
use crate::cli::steer::{parse_change, parse_positions};
use cusae::analysis::{steer, top_of_row, FeatureReader, Steering};
use cusae::backend::{Backend, Sampling};
use cusae::error::Error;
use cusae::lm::Limits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use std::io::Write;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

/// Features of a token that are sent at most, and changes that are taken at most.
const MOST: usize = 100;

/// A model with an SAE, and whether to stop.
pub struct Live<'a, B: Backend> {
    pub look: &'a Look<B>,
    pub stop: &'a AtomicBool,
}

/// `POST /api/features`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Features {
    prompt: String,
    #[serde(default = "ten")]
    top: usize,
}

/// A prompt's tokens, and `[feature, activation]` of the strongest features of each.
#[derive(Serialize)]
struct Found {
    tokens: Vec<u32>,
    features: Vec<Vec<(u32, f32)>>,
}

fn ten() -> usize {
    10
}

/// `POST /api/steer`: as the flags of `cusae steer`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steer {
    prompt: String,
    /// `171=+8`, `171=-8` or `171=8`.
    features: Vec<String>,
    #[serde(default)]
    positions: Option<String>,
    #[serde(default = "forty")]
    max_new_tokens: usize,
    #[serde(default)]
    temperature: f32,
    #[serde(default)]
    top_k: usize,
    #[serde(default = "one")]
    top_p: f32,
    #[serde(default = "seed")]
    seed: u64,
}

fn forty() -> usize {
    40
}

fn one() -> f32 {
    1.0
}

fn seed() -> u64 {
    42
}

impl<B: Backend> Live<'_, B> {
    /// What the page is told of the server: `data/live.js`.
    pub fn about(&self) -> Value {
        json!({ "n_ctx": self.look.model.config().n_ctx, "d_sae": self.look.sae.config().d_sae })
    }

    /// Answers with a [`Found`].
    pub fn features(&self, request: &Request, stream: &mut TcpStream) -> Result<(), Refusal> {
        let asked: Features = parsed(request)?;
        let ids = self.look.tokens(&Prompt::of_flag("prompt", &asked.prompt)).map_err(refusal)?;
        let reader = FeatureReader::new(&self.look.model, &self.look.sae, 1, ids.len());
        let features = reader.and_then(|mut reader| reader.read(&ids)).map_err(refusal)?;
        let of_rows = (0..ids.len()).map(|row| top_of_row(&features, row, asked.top.min(MOST))).collect();
        let found = Found { tokens: ids, features: of_rows };
        let answer = serde_json::to_string(&found).map_err(|error| Refusal::new(500, error.to_string()))?;
        // Whoever asked may be gone.
        let _ = send(stream, 200, "application/json", answer.as_bytes());
        Ok(())
    }

    /// Lines `{"of": "without" | "steered", "text": …}` as the text grows, then `{"done": true}`, or
    /// `{"error": …}`. Generation ends when nobody listens any more, or the server stops.
    pub fn steer(&self, request: &Request, stream: &mut TcpStream) -> Result<(), Refusal> {
        let asked: Steer = parsed(request)?;
        if asked.features.len() > MOST {
            return Err(Refusal::new(400, format!("{} changes, at most {MOST}", asked.features.len())));
        }
        let changes = asked.features.iter().map(|text| parse_change(text)).collect::<Result<Vec<_>, _>>();
        let changes = changes.map_err(|what| Refusal::new(400, format!("features: {what}")))?;
        for &(feature, _) in &changes {
            self.look.sae.decoder_direction(feature).map_err(refusal)?;
        }
        let positions = parse_positions(asked.positions.as_deref().unwrap_or("all"));
        let positions = positions.map_err(|what| Refusal::new(400, format!("positions: {what}")))?;
        let prompt = self.look.tokens_to_continue(&Prompt::of_flag("prompt", &asked.prompt)).map_err(refusal)?;
        let exclude_tokens = self.look.tokenizer.special_ids();
        let mut lines = Lines { stream, begun: false };
        for (of, changes) in [("without", Vec::new()), ("steered", changes)] {
            let steering = Steering { changes, positions: positions.clone(), exclude_tokens: exclude_tokens.clone() };
            match self.generate(&asked, &prompt, &steering, of, &mut lines) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if lines.begun => {
                    let _ = lines.send(&json!({ "error": refusal(error).what }));
                    return Ok(());
                }
                Err(error) => return Err(refusal(error)),
            }
        }
        let _ = lines.send(&json!({ "done": true }));
        Ok(())
    }

    /// Whether it came to its end.
    fn generate(
        &self,
        asked: &Steer,
        prompt: &[u32],
        steering: &Steering,
        of: &str,
        lines: &mut Lines,
    ) -> Result<bool, Error> {
        let Steer { temperature, top_k, top_p, seed, max_new_tokens, .. } = *asked;
        let sampling = Sampling { temperature, top_k, top_p, seed };
        let stop_tokens = self.look.tokenizer.eos_token_id().into_iter().collect();
        let mut text = GrowingText::new(&self.look.tokenizer);
        let mut listened = true;
        let mut on_token = |token| {
            let line = json!({ "of": of, "text": text.add(token) });
            listened = !self.stop.load(Ordering::Relaxed) && lines.send(&line).is_ok();
            if listened {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let limits = Limits { max_new_tokens, stop_tokens };
        steer(&self.look.model, &self.look.sae, prompt, steering, sampling, &limits, &mut on_token)?;
        Ok(listened)
    }
}

/// JSON lines, with the answer's head before the first.
struct Lines<'a> {
    stream: &'a mut TcpStream,
    begun: bool,
}

impl Lines<'_> {
    fn send(&mut self, line: &Value) -> std::io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            send_head(self.stream, 200, "application/x-ndjson", None)?;
        }
        self.stream.write_all(format!("{line}\n").as_bytes())
    }
}

/// The body, which only a page of this server can send: others would need its leave for JSON.
fn parsed<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let content_type = request.header("Content-Type")?.unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        return Err(Refusal::new(415, format!("Content-Type {content_type:?}, expected application/json")));
    }
    serde_json::from_slice(&request.body).map_err(|error| Refusal::new(400, format!("the body: {error}")))
}

/// The library's sentence; keys without the dashes of flags.
fn refusal(error: Error) -> Refusal {
    let status = if matches!(error, Error::Config { .. } | Error::Shape { .. }) { 400 } else { 500 };
    Refusal::new(status, error.to_string().trim_start_matches("--"))
}
