//! How good the rankings are: a labelled set of mails and queries, searched by words, by the vectors of a model from PyPI, and by both.
//! The README has the table that [`both_rankings_together_are_not_worse_than_either`] checks.

use super::find;
use crate::embedding::Embedding;
use crate::index::Index;
use crate::index_documents;
use crate::query::Query;
use lorchestra_plugin_api::serde_json::json;
use lorchestra_plugin_api::testing::{self, TempDir};
use lorchestra_test_setup::venv;

/// Mails: id, subject, text. Several are about the same topic and differ in a name or a number.
const MAILS: [(&str, &str, &str); 30] = [
    ("inv-4711", "Invoice 4711", "Please pay 250 euros for the printer paper until the end of the month."),
    ("inv-4712", "Invoice 4712", "Please pay 90 euros for the desk lamp until the end of the month."),
    ("inv-5120", "Invoice 5120", "Please pay 1,300 euros for the office chairs. A reminder follows."),
    ("inv-late", "Reminder", "Your payment for the desk lamp has not arrived. We charge a fee of five euros."),
    ("car-brakes", "The garage called", "The automobile needs new brakes before the winter; they ask 400 euros."),
    ("car-sold", "Sold", "The old Volvo found a buyer on Saturday; he collects it on Monday."),
    ("doctor", "Appointment", "Dr. Kowalczyk can see you on Tuesday at nine; please bring your insurance card."),
    ("dentist", "Appointment moved", "The dentist Dr. Baker has to move your visit to Thursday at ten."),
    ("puppy", "Lost puppy", "A small brown terrier ran away near the park. Call us if you find him."),
    ("kitten", "Two kittens", "Our tabby had a litter; two of them still look for a home."),
    ("outage", "Outage last night", "The database server was unreachable for ten minutes; a disk was full."),
    ("error-e42", "Error E-4217", "The scanner on the second floor reports E-4217 after each page."),
    ("error-e43", "Error E-4218", "The scanner in the basement reports E-4218 when it is switched on."),
    ("deploy", "Release 2.4", "Version 2.4 goes live on Wednesday. Please merge your branches before noon."),
    ("wedding", "June", "Clara and Tom are getting married, and we would love to have you there."),
    ("birthday", "Sixty", "My father turns sixty in May. We surprise him with a cake and a band."),
    ("rent", "Letter from the landlord", "He raises the rent of the apartment by two percent from January."),
    ("plumber", "Dripping tap", "Mr. Haddad comes on Friday between eight and twelve to look at the kitchen sink."),
    ("match", "Tickets", "Two seats for the soccer match on Saturday, row 12."),
    ("concert", "Tickets for Brahms", "The orchestra plays the violin concerto; the soloist is only nineteen."),
    ("flight", "Booking confirmation", "Your plane to Lisbon departs at 7:15 from terminal 2. Reference QX7RTZ."),
    ("train", "Booking confirmation", "Your train to Lyon leaves at 8:40 from platform 4. Reference MN2KLP."),
    ("storm", "Tomorrow", "Heavy rain and gales are expected along the coast; please stay inside."),
    ("hike", "Sunday", "We climb the Zugspitze if the sky is clear; bring boots and a warm jacket."),
    ("recipe", "As promised", "Knead flour, water, salt and yeast, let it rest overnight, and bake it hot."),
    ("diet", "Lunch", "Could the canteen offer more dishes without meat? A few of us have asked."),
    ("salary", "Your pay from March", "Following our talk, your monthly wage rises by four percent."),
    ("job", "Application", "Ms. Okafor applies for the position of accountant; her letter is attached."),
    ("holiday", "July", "I will be at the sea for two weeks; Anna answers my mail in that time."),
    ("exam", "Results", "You passed the driving theory test with two mistakes. The practical part follows."),
];

/// Queries and the mail that they are for. First those that share rare words with it, then those that share none, then mixtures.
const QUERIES: [(&str, &str); 42] = [
    ("invoice 4712", "inv-4712"),
    ("invoice 5120", "inv-5120"),
    ("4711", "inv-4711"),
    ("E-4218", "error-e43"),
    ("scanner E-4217", "error-e42"),
    ("Kowalczyk", "doctor"),
    ("Dr. Baker", "dentist"),
    ("Okafor", "job"),
    ("Haddad", "plumber"),
    ("QX7RTZ", "flight"),
    ("MN2KLP", "train"),
    ("Zugspitze", "hike"),
    ("Release 2.4", "deploy"),
    ("Volvo", "car-sold"),
    ("vehicle repair", "car-brakes"),
    ("medical examination", "doctor"),
    ("missing pet", "puppy"),
    ("cats", "kitten"),
    ("computer failure", "outage"),
    ("marriage", "wedding"),
    ("party for dad", "birthday"),
    ("housing costs", "rent"),
    ("sports event", "match"),
    ("classical music", "concert"),
    ("airline", "flight"),
    ("railway journey", "train"),
    ("bad weather", "storm"),
    ("mountain trip", "hike"),
    ("making bread", "recipe"),
    ("vegetarian food", "diet"),
    ("more money at work", "salary"),
    ("job candidate", "job"),
    ("vacation", "holiday"),
    ("teeth", "dentist"),
    ("overdue bill for the lamp", "inv-late"),
    ("bill for the office furniture", "inv-5120"),
    ("physician Tuesday", "doctor"),
    ("airport Lisbon", "flight"),
    ("scanner problem basement", "error-e43"),
    ("water leak Friday", "plumber"),
    ("driving license exam", "exam"),
    ("software version Wednesday", "deploy"),
];

/// The number of queries for which the right mail comes first, and the mean of 1 / rank (0 if it is not among the first ten).
#[derive(Debug, Default)]
struct Quality {
    first: usize,
    reciprocal: f64,
}

#[test]
fn both_rankings_together_are_not_worse_than_either() {
    let model = venv::ensure_model(&lorchestra_test_setup::target().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let dir = TempDir::new();
    let line = |(id, subject, text): &(&str, &str, &str)| {
        let email = json!({
            "id": id, "subject": subject, "sentAt": "2024-01-01T10:00:00Z",
            "textBody": [{"partId": "1", "type": "text/plain"}], "bodyValues": {"1": {"value": text}},
        });
        format!("{email}\n")
    };
    dir.write("canonizer/email.jsonl", MAILS.iter().map(line).collect::<String>());
    let job = testing::job::<index_documents>().package("vector-projector").data(&dir).param("model", &model);
    job.run().assert_ok();
    let index = Index::to_search(&dir.path().join("vector-projector")).unwrap();
    let embedding = Embedding::load(None, index.made.model.as_deref()).unwrap();
    let measure = |is_by_words: bool, is_by_vector: bool| {
        let mut quality = Quality::default();
        for (text, wanted) in QUERIES {
            let query = Query::parse(text).unwrap();
            let vector = embedding.of_query(text).unwrap();
            let vector = is_by_vector.then(|| (&vector, embedding.near()));
            let hits = find(&index, &query, is_by_words, vector, 10).unwrap();
            if let Some(hit) = hits.iter().find(|hit| hit.id == wanted) {
                quality.first += usize::from(hit.rank == 1);
                quality.reciprocal += 1.0 / hit.rank as f64 / QUERIES.len() as f64;
            }
        }
        quality
    };
    let [text, vector, both] = [measure(true, false), measure(false, true), measure(true, true)];
    let shown = format!("text {text:?}, vector {vector:?}, both {both:?}");
    assert!(both.reciprocal > text.reciprocal && both.reciprocal > vector.reciprocal, "{shown}");
    assert!(both.first >= text.first && both.first >= vector.first, "{shown}");
    let row = |name: &str, quality: &Quality| {
        format!("| {name} | {} of {} | {:.2} |", quality.first, QUERIES.len(), quality.reciprocal)
    };
    let rows = [row("text", &text), row("vector", &vector), row("both", &both)];
    let readme = include_str!("../../README.md");
    assert!(rows.iter().all(|row| readme.contains(row)), "the README has another table than {rows:#?}");
}
