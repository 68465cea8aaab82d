//! Our own words around a log: made safe, put into the terminal's
//! characters, and folded between facts rather than by the terminal within
//! a word.

use super::text;

/// A line of several facts.
pub(super) struct Facts<'a> {
    /// The facts, the more telling ones first.
    pub(super) facts: Vec<String>,
    /// What stands between two of them.
    pub(super) glue: &'a str,
    /// What begins a further line.
    pub(super) hang: &'a str,
    /// What ends the last line, if it has room for it.
    pub(super) close: &'a str,
}

impl Facts<'_> {
    /// The line, or as many as a terminal of this width needs. A fact that
    /// is too long by itself stays whole: a path can be copied then.
    pub(super) fn fold(&self, width: Option<usize>, unicode: bool) -> Vec<String> {
        let has_room = |line: &str, more: &str| {
            width.is_none_or(|width| line.chars().count() + more.chars().count() <= width)
        };
        let (glue, hang) = (words(self.glue, unicode), words(self.hang, unicode));
        let mut lines = Vec::new();
        let mut line = String::new();
        for (at, fact) in self.facts.iter().enumerate() {
            let fact = words(fact, unicode);
            if at == 0 {
                line = fact;
            } else if has_room(&line, &format!("{glue}{fact}")) {
                line = line + &glue + &fact;
            } else {
                lines.push(std::mem::replace(&mut line, format!("{hang}{fact}")));
            }
        }
        let close = words(self.close, unicode);
        if has_room(&line, &close) {
            line += &close;
        }
        lines.push(line);
        lines
    }
}

/// Our own words as the terminal can show them. They quote paths, versions
/// and symbols, so nothing in them is trusted either.
pub(super) fn words(words: &str, unicode: bool) -> String {
    let ascii;
    let words = if unicode {
        words
    } else {
        let replace = |text: String, (from, to): (&str, &str)| text.replace(from, to);
        ascii = [("─", "-"), ("·", "|"), ("…", "..."), ("←", "<-")]
            .into_iter()
            .fold(words.to_owned(), replace);
        &ascii
    };
    let clean = text::clean(words.as_bytes(), unicode);
    String::from_utf8_lossy(&clean).into_owned()
}
