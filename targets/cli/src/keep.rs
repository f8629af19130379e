//! What a session holds, token by token: kept between turns, and between runs in a file.

use crate::dialogue::Turn;
use crate::engine::Loaded;
use crate::fail::{Done, failed, usage};
use crate::term;
use drupe_host::saved::{Head, Saved, SavedTurn, save};
use std::path::{Path, PathBuf};

/// The tokens that the session holds, and the file that it is kept in.
pub struct Held {
    tokens: Vec<u32>,
    /// Whether the session's logits are those of the last token, as the model computed them.
    logits: bool,
    file: Option<PathBuf>,
}

impl Held {
    /// Nothing, to be kept in `file` if one is named. Checked now, so that nobody talks for an hour to learn then that
    /// there is no such folder.
    pub fn new(file: Option<&Path>) -> Done<Held> {
        let folder = file.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|f| !f.is_dir()) {
            return Err(usage(format!("--session: there is no folder {}", folder.display())));
        }
        Ok(Held { tokens: Vec::new(), logits: false, file: file.map(Path::to_path_buf) })
    }

    /// Takes back what the file holds, if it is there, and returns its conversation.
    pub fn restore(&mut self, loaded: &mut Loaded) -> Done<Vec<Turn>> {
        let Some(path) = &self.file else { return Ok(Vec::new()) };
        let Some(saved) = Saved::open(path).map_err(failed)? else { return Ok(Vec::new()) };
        saved.restore(&mut loaded.session, &mut loaded.weights).map_err(failed)?;
        let vocab = loaded.plan.recipe.vocab;
        let turns = saved.head.turns.into_iter().map(|t| {
            let ids = if t.ids.iter().all(|id| *id < vocab) { t.ids } else { Vec::new() };
            Some(Turn { role: Turn::role_named(&t.role)?, content: t.content, ids })
        });
        let turns = turns.collect::<Option<Vec<_>>>();
        let turns = turns.ok_or_else(|| failed(format!("{}: a turn of nobody's", path.display())))?;
        (self.tokens, self.logits) = (saved.head.tokens, saved.head.logits);
        Ok(turns)
    }

    /// How many tokens are held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Makes the session hold a prefix of `wanted`, as long as it can, and returns its length: all of `wanted` only if
    /// its logits are there too.
    pub fn keep_prefix(&mut self, loaded: &mut Loaded, wanted: &[u32]) -> usize {
        let same = self.tokens.iter().zip(wanted).take_while(|(a, b)| a == b).count();
        if same == wanted.len() && same == self.tokens.len() && self.logits && same > 0 {
            return same;
        }
        let common = same.min(wanted.len().saturating_sub(1));
        let kept = if loaded.session.rewind(common as u64).is_ok() {
            common
        } else {
            // What would be seen from there has been overwritten: from the start, then. Position 0 is always possible.
            let _ = loaded.session.rewind(0);
            0
        };
        self.tokens.truncate(kept);
        self.logits = false;
        kept
    }

    /// Notes that `tokens` were fed after what is held.
    pub fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.logits = false;
    }

    /// Notes that the session's logits are as the model computed them.
    pub fn logits_are_there(&mut self) {
        self.logits = true;
    }

    /// Writes the file, if one was named.
    pub fn save(&self, loaded: &mut Loaded, turns: &[Turn]) -> Done {
        let Some(path) = &self.file else { return Ok(()) };
        let c = loaded.plan.config;
        let kv = format!("{:?}", c.kv).to_lowercase();
        let turn = |t: &Turn| SavedTurn { role: t.role_name().into(), content: t.content.clone(), ids: t.ids.clone() };
        let head = Head {
            model: loaded.opened.name.clone(),
            setup: format!("--ctx {} --kv {} --sinks {} --batch {}", c.ctx, kv, c.sinks, c.batch),
            tokens: self.tokens.clone(),
            logits: self.logits,
            turns: turns.iter().map(turn).collect(),
        };
        save(path, &head, &loaded.session, &mut loaded.weights).map_err(failed)?;
        term::say(&format!("[session of {} tokens kept in {}]", self.tokens.len(), path.display()));
        Ok(())
    }
}
