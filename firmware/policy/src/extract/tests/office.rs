use super::{archives::zip_of, *};

const TYPES: (&str, &[u8]) = ("[Content_Types].xml", b"<Types/>");

fn docx(body: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let document = format!(
        "<?xml version=\"1.0\"?>\n<w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\">\
         <w:body>{body}</w:body></w:document>"
    );
    let mut files = vec![TYPES, ("word/document.xml", document.as_bytes())];
    files.extend_from_slice(more);
    zip_of(&files)
}

fn run(text: &str) -> String {
    format!("<w:r><w:rPr><w:b/></w:rPr><w:t xml:space=\"preserve\">{text}</w:t></w:r>")
}

fn read_docx(body: &str) -> Outcome {
    read(attached("a.docx", &docx(body, &[])))
}

#[test]
fn runs_are_joined_within_a_paragraph_of_a_docx() {
    let outcome = read_docx(&format!(
        "<w:p>{}{}{}</w:p><w:p>{}</w:p>",
        run("4111 11"),
        run("11 1111 "),
        run("1111"),
        run("next")
    ));
    assert_eq!(outcome.part("2").text, "4111 1111 1111 1111\nnext\n");
    assert_eq!(outcome.part("2").sniffed, "docx");
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
}

#[test]
fn every_part_of_a_docx_is_read() {
    for name in [
        "word/header1.xml",
        "word/footer2.xml",
        "word/footnotes.xml",
        "word/endnotes.xml",
        "word/comments.xml",
        "word/glossary/document.xml",
        "docProps/core.xml",
        "docProps/app.xml",
        "customXml/item1.xml",
    ] {
        let xml = format!("<x:a xmlns:x='x'><x:p><x:r><x:t>{CARD}</x:t></x:r></x:p></x:a>");
        let outcome = read(attached("a.docx", &docx("", &[(name, xml.as_bytes())])));
        assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["2"], "{name}");
    }
}

#[test]
fn what_is_packed_into_a_docx_goes_its_own_way() {
    let sheet = zip_of(&[("a.txt", CARD.as_bytes())]);
    let picture = b"\x89PNG\r\n\x1a\n\0\0";
    let outcome = read(attached(
        "a.docx",
        &docx("", &[("word/embeddings/oleObject1.zip", &sheet), ("word/media/image1.png", picture)]),
    ));
    assert_eq!(outcome.places(CARD).collect::<Vec<_>>(), ["2!word/embeddings/oleObject1.zip!a.txt"]);
    assert_eq!(outcome.part("2!word/media/image1.png").conditions, [Condition::Unread("png".to_owned())]);
}

#[test]
fn a_number_over_the_cells_of_a_docx_table_is_found() {
    let cell = |text: &str| format!("<w:tc><w:p>{}</w:p></w:tc>", run(text));
    let row = format!("<w:tbl><w:tr>{}{}{}</w:tr></w:tbl>", cell("Card"), cell("4111 1111"), cell("1111 1111"));
    let outcome = read_docx(&row);
    assert_eq!(outcome.part("2").text, "Card\t4111 1111\t1111 1111\n");
    assert!(outcome.view("2", ViewKind::Joined).contains("4111 11111111 1111"));
}

#[test]
fn hidden_and_deleted_runs_do_not_split_what_is_seen() {
    let hidden = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>x</w:t></w:r>";
    let deleted = "<w:del><w:r><w:delText>99</w:delText></w:r></w:del>";
    let outcome =
        read_docx(&format!("<w:p>{}{hidden}{}{deleted}{}</w:p>", run("4111 11"), run("11 1111 11"), run("11")));
    assert!(outcome.view("2", ViewKind::Visible).contains(CARD));
    assert!(read_docx(&format!("<w:p>{}</w:p>", hidden.replace('x', CARD))).shows(CARD));
    assert!(read_docx(&format!("<w:p>{}</w:p>", deleted.replace("99", CARD))).shows(CARD));
}

fn xlsx(rows: &str, strings: &str, formats: &str) -> Vec<u8> {
    let sheet = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
    let strings = format!("<sst>{strings}</sst>");
    let styles = format!(
        "<styleSheet><numFmts>{formats}</numFmts><cellStyleXfs><xf numFmtId=\"9\"/></cellStyleXfs>\
         <cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"164\"/></cellXfs></styleSheet>"
    );
    // The sheet stands before what it refers to.
    zip_of(&[
        TYPES,
        ("xl/workbook.xml", b"<workbook><sheets><sheet name=\"Tab\"/></sheets></workbook>"),
        ("xl/worksheets/sheet1.xml", sheet.as_bytes()),
        ("xl/sharedStrings.xml", strings.as_bytes()),
        ("xl/styles.xml", styles.as_bytes()),
    ])
}

#[test]
fn shared_inline_and_numeric_cells_of_an_xlsx_are_read() {
    let rows = "<row><c r=\"A1\" t=\"s\"><v>1</v></c><c r=\"B1\" t=\"inlineStr\"><is><r><t>4111 1111</t></r><r><t> 1111 1111</t></r></is></c></row>\
                <row><c r=\"A2\"><v>4111111111111111</v></c><c r=\"B2\"><v>4.111111111111111E+15</v></c>\
                <c r=\"C2\" t=\"str\"><f>A1&amp;\"secret\"</f><v>x</v></c></row>";
    let strings = "<si><t>zero</t></si><si><r><t>5500 0000 </t></r><r><t>0000 0004</t></r><rPh><t>no</t></rPh></si>";
    let outcome = read(attached("a.xlsx", &xlsx(rows, strings, "")));
    let part = outcome.part("2");
    assert_eq!(part.sniffed, "xlsx");
    assert_eq!(part.text, "5500 0000 0000 0004\t4111 1111 1111 1111\n4111111111111111\t4111111111111111\tx\n");
    assert!(outcome.view("2", ViewKind::Margin).contains("secret"));
    assert!(outcome.conditions().is_empty(), "{:?}", outcome.conditions());
}

#[test]
fn numbers_are_shown_by_their_format_and_behind_their_heading() {
    let rows = "<row><c r=\"A1\" t=\"inlineStr\"><is><t>Name</t></is></c><c r=\"B1\" t=\"inlineStr\"><is><t>SSN</t></is></c></row>\
                <row><c r=\"A2\" t=\"inlineStr\"><is><t>Anna</t></is></c><c r=\"B2\" s=\"1\"><v>78051120</v></c></row>";
    let formats = "<numFmt numFmtId=\"164\" formatCode=\"000\\-00\\-0000\"/>";
    let outcome = read(attached("a.xlsx", &xlsx(rows, "", formats)));
    assert_eq!(outcome.part("2").text, "Name\tSSN\nAnna\t078-05-1120\n");
    assert_eq!(outcome.view("2", ViewKind::Headed), "SSN 078-05-1120\n");
}

#[test]
fn a_number_over_the_cells_of_a_sheet_is_found() {
    let cells: String = ["4111", "1111", "1111", "1111"].iter().map(|v| format!("<c><v>{v}</v></c>")).collect();
    let outcome = read(attached("a.xlsx", &xlsx(&format!("<row>{cells}</row>"), "", "")));
    assert!(outcome.view("2", ViewKind::Joined).contains("4111111111111111"));
}

#[test]
fn one_long_string_shown_a_million_times_is_over_budget() {
    let row = format!("<row>{}</row>", "<c t=\"s\"><v>0</v></c>".repeat(40_000));
    let archive = xlsx(&row, &format!("<si><t>{}</t></si>", "many words ".repeat(3_000)), "");
    let outcome = read(attached("a.xlsx", &archive));
    assert_eq!(outcome.part("2").conditions, [Condition::OverBudget]);
    assert!(outcome.part("2").text.len() <= 97 << 20);
}

#[test]
fn slides_and_their_notes_are_read() {
    let slide = |text: &str| {
        format!(
            "<p:sld xmlns:p='p' xmlns:a='a'><a:p><a:r><a:t>{text}</a:t></a:r><a:r><a:t>1111</a:t></a:r></a:p></p:sld>"
        )
    };
    let (one, notes) = (slide("4111 1111 1111 "), slide("5500 0000 "));
    let archive = zip_of(&[
        TYPES,
        ("ppt/slides/slide1.xml", one.as_bytes()),
        ("ppt/notesSlides/notesSlide1.xml", notes.as_bytes()),
    ]);
    let outcome = read(attached("a.pptx", &archive));
    assert_eq!(outcome.part("2").sniffed, "pptx");
    assert_eq!(outcome.part("2").text, "4111 1111 1111 1111\n5500 0000 1111\n");
}

#[test]
fn open_documents_are_read_and_their_encryption_seen() {
    let content =
        b"<o xmlns:text='t' xmlns:table='u'><text:p>4111 <text:span>1111</text:span><text:s/>1111 1111</text:p></o>";
    let mimetype = b"application/vnd.oasis.opendocument.spreadsheet";
    let files: [(&str, &[u8]); 3] =
        [("mimetype", mimetype), ("content.xml", content), ("META-INF/manifest.xml", b"<m/>")];
    let outcome = read(attached("a.ods", &zip_of(&files)));
    assert_eq!((outcome.part("2").sniffed, outcome.part("2").text.as_ref()), ("ods", "4111 1111 1111 1111\n"));
    let locked: [(&str, &[u8]); 2] = [
        ("content.xml", b"\x01\x02"),
        ("META-INF/manifest.xml", b"<m xmlns:manifest='m'><manifest:encryption-data/></m>"),
    ];
    assert!(read(attached("a.odt", &zip_of(&locked))).has(&Condition::Encrypted));
}

#[test]
fn a_docx_in_utf_16_is_read() {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-16\"?><a><p><t>{CARD}</t></p></a>");
    let wide: Vec<u8> = [0xfeff].into_iter().chain(xml.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert!(read(attached("a.docx", &zip_of(&[TYPES, ("word/document.xml", &wide)]))).shows(CARD));
}

#[test]
fn a_document_with_entities_of_its_own_is_malformed() {
    let bomb = b"<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><a><p>&b;</p></a>";
    let outcome = read(attached("a.docx", &zip_of(&[TYPES, ("word/document.xml", bomb)])));
    assert_eq!(outcome.part("2").conditions, [Condition::Malformed]);
}
