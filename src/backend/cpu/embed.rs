//! `embed` and `add`.

use super::simd;
use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;
/// Elements per task of an addition.
const ELEMENTS: usize = 1 << 14;

pub(super) fn run(op: Embed<'_, Cpu>) -> Result<()> {
    let Embed { tokens, w_e, w_pos, rows, context, past, d_model, embed, pos_embed, resid } = op;
    let (tokens, d_vocab) = (&tokens[..rows], w_e.len() / d_model);
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= d_vocab) {
        let what = format!("token id {token} is outside the vocabulary of {d_vocab}");
        return Err(Error::Shape { operation: "embed", what });
    }
    let token_row = |row: usize| &w_e[tokens[row] as usize * d_model..][..d_model];
    let position_row = |row: usize| &w_pos[(past + row % context) * d_model..][..d_model];
    let rows_of = |out: &mut Vec<f32>, fill: &(dyn Fn(usize, &mut [f32]) + Sync)| {
        let chunks = out[..rows * d_model].par_chunks_mut(d_model).enumerate().with_min_len(ROWS);
        chunks.for_each(|(row, out)| fill(row, out));
    };
    rows_of(resid, &|row, out| {
        out.copy_from_slice(token_row(row));
        simd::add(out, position_row(row));
    });
    if let Some(embed) = embed {
        rows_of(embed, &|row, out| out.copy_from_slice(token_row(row)));
    }
    if let Some(pos_embed) = pos_embed {
        rows_of(pos_embed, &|row, out| out.copy_from_slice(position_row(row)));
    }
    Ok(())
}

pub(super) fn add(op: Add<'_, Cpu>) -> Result<()> {
    let to = op.to[..op.len].par_chunks_mut(ELEMENTS);
    to.zip(op.from[..op.len].par_chunks(ELEMENTS)).for_each(|(to, from)| simd::add(to, from));
    Ok(())
}
