//! A look at Thrift's compact protocol before the Parquet library reads it: the library believes what a list says of its
//! length, and passes over two thousand million items, one by one, where five bytes say that there are so many.

/// Structures in structures are followed so deep; Parquet's metadata has fewer.
const DEPTH: usize = 32;

/// True if these bytes begin with a structure whose lists and texts fit into them.
pub fn is_sound(mut bytes: &[u8]) -> bool {
    skip_struct(&mut bytes, DEPTH).is_some()
}

fn skip_struct(bytes: &mut &[u8], depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    loop {
        let head = *bytes.split_off_first()?;
        if head == 0 {
            return Some(());
        }
        if head >> 4 == 0 {
            varint(bytes)?;
        }
        match head & 15 {
            // Of a field, its head says which of the two it is.
            1 | 2 => {}
            kind => skip(kind, bytes, depth)?,
        }
    }
}

fn skip(kind: u8, bytes: &mut &[u8], depth: usize) -> Option<()> {
    match kind {
        1..=3 => bytes.split_off_first().map(|_| ()),
        4..=6 => varint(bytes).map(|_| ()),
        7 => bytes.split_off(..8).map(|_| ()),
        8 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            bytes.split_off(..length).map(|_| ())
        }
        9 | 10 => {
            let head = *bytes.split_off_first()?;
            let count = if head >> 4 == 15 { varint(bytes)? } else { u64::from(head >> 4) };
            // The library passes over truth values without a look at the bytes; a file's metadata has no list of them.
            if matches!(head & 15, 1 | 2) {
                return None;
            }
            // Every item takes a byte at least, or that end would come first.
            (0..count).try_for_each(|_| skip(head & 15, bytes, depth.checked_sub(1)?))
        }
        12 => skip_struct(bytes, depth),
        // Parquet has no maps.
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
