//! Codes of languages, which translation models take with a text.

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{PostProcessorWrapper, Result};

use super::names::{Family, Names};
use super::{FILE, Tokenizer, guarded};
use crate::problem::{Problem, ProblemKind};

/// The languages of mBART; after them those that mBART-50 has as well. In the order of their numbers, as transformers adds them.
pub(super) const MBART: [&str; 52] = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT",
    "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK",
    "tr_TR", "vi_VN", "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE",
    "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN",
    "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
];
/// How many of them mBART has.
pub(super) const OF_MBART: usize = 25;
/// What transformers takes for mBART where nothing is said.
const USUAL: &str = "en_XX";

impl Tokenizer {
    /// The languages that there are codes for, as [`Self::set_languages`] takes them; none for most tokenizers.
    pub fn languages(&self) -> Vec<String> {
        match self.family {
            Some(Family::MBart | Family::MBart50) => {
                let known = MBART.iter().filter(|code| self.inner.token_to_id(code).is_some());
                known.map(|code| (*code).to_owned()).collect()
            }
            Some(Family::Marian) => {
                let code = |token: &str| Some(token.strip_prefix(">>")?.strip_suffix("<<")?.to_owned());
                let mut codes: Vec<String> =
                    self.inner.get_vocab(true).into_keys().filter_map(|token| code(&token)).collect();
                codes.sort();
                codes
            }
            _ => Vec::new(),
        }
    }

    /// The id of a language's code: what a decoder of mBART-50 is made to begin with.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where there is no code for it, with those that there are.
    pub fn language_id(&self, language: &str) -> std::result::Result<u32, Problem> {
        let token = match self.family {
            Some(Family::MBart | Family::MBart50) => MBART.contains(&language).then(|| language.to_owned()),
            Some(Family::Marian) if language.starts_with(">>") => Some(language.to_owned()),
            Some(Family::Marian) => Some(format!(">>{language}<<")),
            _ => None,
        };
        token.and_then(|token| self.inner.token_to_id(&token)).ok_or_else(|| {
            let known = self.languages();
            let (message, hint) = match known.is_empty() {
                true => (
                    format!("there is no code for the language `{language}`: this model is for one pair of languages or for none"),
                    "leave the languages out".to_owned(),
                ),
                false => {
                    (format!("there is no code for the language `{language}`"), format!("there are {}", known.join(", ")))
                }
            };
            Problem::new(ProblemKind::Tokenizer, self.file(), message).hint(hint)
        })
    }

    /// Chooses the languages of what is encoded from now on; one that is not given stays what it was.
    ///
    /// mBART has the source's code behind a source and the target's behind a target, mBART-50 before them. Marian's models for
    /// several targets have the target's code before the source, and texts then must not begin with one themselves; the
    /// source's language has no mark there, and may be anything. A Marian model for one pair takes what its configuration
    /// names.
    ///
    /// # Errors
    /// [`ProblemKind::Tokenizer`] where there is no code for a language, with those that there are.
    pub fn set_languages(
        &mut self,
        source: Option<&str>,
        target: Option<&str>,
    ) -> std::result::Result<(), Problem> {
        match self.family {
            Some(Family::Marian) => {
                let Some(target) = target else { return Ok(()) };
                if self.language_of_pair.as_deref() == Some(target) && self.languages().is_empty() {
                    return Ok(());
                }
                let id = self.language_id(target)?;
                guarded(|| self.put_before_sources(id))?;
            }
            Some(family @ (Family::MBart | Family::MBart50)) => {
                for (language, is_target) in [(source, false), (target, true)] {
                    let Some(language) = language else { continue };
                    let id = self.language_id(language)?;
                    let around = guarded(|| self.around(family, language, id))?;
                    if is_target {
                        self.of_targets = Some(around);
                    } else {
                        self.inner.with_post_processor(Some(around));
                    }
                }
            }
            _ => {
                if let Some(language) = source.or(target) {
                    self.language_id(language)?;
                }
            }
        }
        self.leading = guarded(|| self.find_leading())?;
        Ok(())
    }

    /// What the files say about languages.
    pub(super) fn adopt_languages(&mut self, names: &Names) -> std::result::Result<(), Problem> {
        match self.family {
            Some(Family::Marian) => self.language_of_pair = names.word("target_lang").map(str::to_owned),
            Some(Family::MBart | Family::MBart50) => {
                let said = [names.word("src_lang"), names.word("tgt_lang")];
                let source = said[0].unwrap_or(USUAL);
                // A file may have been made without codes; then only what it asks for itself is missed.
                if said == [None; 2] && self.inner.token_to_id(USUAL).is_none() {
                    return Ok(());
                }
                self.set_languages(Some(source), Some(said[1].unwrap_or(source)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn around(&self, family: Family, language: &str, id: u32) -> Result<PostProcessorWrapper> {
        const END: &str = "</s>";
        let end = self.special.get("eos_token").map_or(END, String::as_str);
        let end_id = self.inner.token_to_id(end).ok_or_else(|| format!("there is no token `{end}`"))?;
        let (single, pair) = match family {
            Family::MBart => (format!("$A {end} {language}"), format!("$A $B {end} {language}")),
            _ => (format!("{language} $A {end}"), format!("{language} $A $B {end}")),
        };
        let template = TemplateProcessing::builder()
            .try_single(single)?
            .try_pair(pair)?
            .special_tokens(vec![(end.to_owned(), end_id), (language.to_owned(), id)])
            .build()?;
        Ok(PostProcessorWrapper::Template(template))
    }

    /// Puts a code of Marian's before sources; targets stay as they are.
    fn put_before_sources(&mut self, id: u32) -> Result<()> {
        let name = |id: u32| self.inner.id_to_token(id).ok_or_else(|| format!("there is no token {id}"));
        let end = self.special_id("eos_token").ok_or("there is no token that ends a text")?;
        let template = |before: &str| -> Result<PostProcessorWrapper> {
            let template = TemplateProcessing::builder()
                .try_single(format!("{before}$A {}", name(end)?))?
                .try_pair(format!("{before}$A $B {}", name(end)?))?
                .special_tokens(vec![(name(end)?, end), (name(id)?, id)])
                .build()?;
            Ok(PostProcessorWrapper::Template(template))
        };
        let (of_sources, of_targets) = (template(&format!("{} ", name(id)?))?, template("")?);
        self.inner.with_post_processor(Some(of_sources));
        self.of_targets = Some(of_targets);
        Ok(())
    }

    /// The file that codes are looked for in.
    fn file(&self) -> &'static str {
        if self.family == Some(Family::Marian) { super::VOCABULARY } else { FILE }
    }
}
