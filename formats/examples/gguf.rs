//! `gguf import FILE FOLDER`, `gguf export FOLDER FILE KIND`.

use std::path::Path;

use formats::gguf::{self, Kind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["import", file, folder] => println!("{:#?}", gguf::import(Path::new(file), Path::new(folder))?),
        ["export", folder, file, kind] => {
            let kind = Kind::named(kind).ok_or("f32, f16, bf16, q8_0 or q4_k_m")?;
            println!("{:#?}", gguf::export(Path::new(folder), Path::new(file), kind)?);
        }
        _ => return Err("gguf import FILE FOLDER, or gguf export FOLDER FILE KIND".into()),
    }
    Ok(())
}
