use super::chunk::Chunk;
use crate::upstream::UpstreamError;

/// The choices of a stream by their index, and which of them have finished: a stream whose choices all have is whole, also
/// where no `[DONE]` follows (`transformers serve` sends none).
#[derive(Default, Debug)]
pub(super) struct Choices(Vec<(u64, bool)>);

impl Choices {
    /// OpenAI's API has no more.
    const MOST: usize = 128;

    pub(super) fn update(&mut self, chunk: &Chunk<'_>) -> Result<(), UpstreamError> {
        for choice in chunk.choices() {
            let index = choice.index();
            // So vLLM and SGLang call what their engine gave up.
            let finished = (choice.finish_reason())
                .is_some_and(|reason| reason != "abort" && reason != "error");
            let known = self.0.iter().position(|(known, _)| *known == index);
            match known {
                Some(at) => self.0[at].1 |= finished,
                None if self.0.len() < Self::MOST => self.0.push((index, finished)),
                None => {
                    let what = format!("more than {} choices", Self::MOST);
                    return Err(UpstreamError::Unreadable(what));
                }
            }
        }
        Ok(())
    }

    pub(super) fn all_finished(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, finished)| *finished)
    }
}
