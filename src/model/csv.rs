//! CSV (RFC 4180), as a spreadsheet reads it.

/// A text as a field (RFC 4180, section 2), which no spreadsheet takes for a formula: one that begins with `=`, `+`, `-`, `@`,
/// a tab or a carriage return has a `'` before it.
#[must_use]
pub fn csv_field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if formula { "'" } else { "" };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{mark}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{mark}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The fields of one record, read as RFC 4180 says.
    fn read(record: &str) -> Vec<String> {
        let (mut fields, mut text, mut quoted) = (Vec::new(), String::new(), false);
        let mut rest = record.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if quoted && rest.peek() == Some(&'"') => text.extend(rest.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(std::mem::take(&mut text)),
                c => {
                    assert!(quoted || !['\r', '\n'].contains(&c), "{record:?}");
                    text.push(c);
                }
            }
        }
        assert!(!quoted, "{record:?}");
        fields.push(text);
        fields
    }

    proptest! {
        #[test]
        fn a_text_is_read_back_as_it_was_but_for_the_mark_before_a_formula(texts in prop::collection::vec("([=+@\t\r\n-]?[a,\"'=\r\n é]{0,6}|\\PC{0,9})", 1..5)) {
            let record: Vec<String> = texts.iter().map(|text| csv_field(text)).collect();
            let read = read(&record.join(","));
            prop_assert_eq!(read.len(), texts.len());
            for (read, text) in read.iter().zip(&texts) {
                prop_assert_eq!(read.strip_prefix('\'').filter(|_| !text.starts_with('\'')).unwrap_or(read), text);
                prop_assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r']), "{}", read);
            }
        }
    }
}
