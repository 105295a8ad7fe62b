//! Numbers as people read them.

/// Bytes in decimal units: `644 bytes`, `79.0 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} bytes");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with thousands separated: `75,563`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and what is counted: `1 file`, `2 files`.
pub fn counted(n: u64, one: &str) -> String {
    let ending = match n {
        1 => "",
        _ if one.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {one}{ending}", count(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(644), "644 bytes");
        assert_eq!(bytes(79_030_016), "79.0 MB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(count(75_563), "75,563");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2, "batch"), "2 batches");
    }
}
