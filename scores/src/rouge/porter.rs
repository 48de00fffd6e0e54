//! Porter's stemmer (An algorithm for suffix stripping, Program 14.3, 1980) with the changes of nltk's `PorterStemmer`,
//! which rouge-score takes. Other stemmers of that name keep to the paper, or are Porter's second one.

/// Words that the rules would spoil.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Step 2, where something with a vowel and a consonant is before. The last two are nltk's.
const DOUBLE: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// Step 3, where something with a vowel and a consonant is before.
const DERIVED: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4, taken away where more than one syllable is before.
const ENDINGS: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word of `a` to `z` and digits, which count as consonants.
pub(super) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = past_and_participle(&plural(word));
    let word = double_endings(&y_to_i(word));
    let word = replace_first(&word, &DERIVED, |stem| measure(stem) > 0);
    final_e_and_l(without_ending(&word))
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_owned();
    }
    replace_first(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

/// Step 1b.
fn past_and_participle(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word.to_owned() };
    }
    let has_vowel = |stem: &&str| consonants(stem).contains(&false);
    let mut stems = ["ed", "ing"].iter().filter_map(|suffix| word.strip_suffix(suffix));
    let Some(stem) = stems.find(has_vowel) else {
        return word.to_owned();
    };
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        format!("{stem}e")
    } else if ends_in_double_consonant(stem) {
        let kept = if stem.ends_with(['l', 's', 'z']) { stem.len() } else { stem.len() - 1 };
        stem[..kept].to_owned()
    } else if measure(stem) == 1 && ends_in_short_syllable(stem) {
        format!("{stem}e")
    } else {
        stem.to_owned()
    }
}

/// Step 1c, nltk's: after a consonant that is not the first letter.
fn y_to_i(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word,
    }
}

/// Step 2; nltk takes `alli` first, and goes on with what is left.
fn double_endings(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_endings(&format!("{stem}al"));
    }
    // nltk counts the l of `logi` with the stem, so that short ones such as geo count.
    match word.strip_suffix("ogi") {
        Some(stem) if stem.ends_with('l') && measure(stem) > 0 => format!("{stem}og"),
        _ => replace_first(word, &DOUBLE, |stem| measure(stem) > 0),
    }
}

/// Step 4.
fn without_ending(word: &str) -> String {
    let Some((stem, ending)) =
        ENDINGS.iter().find_map(|ending| word.strip_suffix(ending).map(|stem| (stem, *ending)))
    else {
        return word.to_owned();
    };
    let allowed = measure(stem) > 1 && (ending != "ion" || stem.ends_with(['s', 't']));
    if allowed { stem.to_owned() } else { word.to_owned() }
}

/// Steps 5a and 5b.
fn final_e_and_l(mut word: String) -> String {
    if let Some(stem) = word.strip_suffix('e') {
        let syllables = measure(stem);
        if syllables > 1 || (syllables == 1 && !ends_in_short_syllable(stem)) {
            word.pop();
        }
    }
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Replaces the first ending that the word has, where what is before allows it.
fn replace_first(word: &str, rules: &[(&str, &str)], allows: impl Fn(&str) -> bool) -> String {
    let rule = rules.iter().find_map(|(from, to)| word.strip_suffix(from).map(|stem| (stem, *to)));
    match rule {
        Some((stem, to)) if allows(stem) => format!("{stem}{to}"),
        _ => word.to_owned(),
    }
}

/// For each character whether it is a consonant: none of the five vowels, nor a y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        });
    }
    flags
}

/// Porter's measure: how often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() > 1
        && letters[letters.len() - 1] == letters[letters.len() - 2]
        && consonants(word).last() == Some(&true)
}

/// Consonant, vowel, consonant other than w, x and y; in nltk also a word of a vowel and a consonant.
fn ends_in_short_syllable(word: &str) -> bool {
    match *consonants(word) {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}
