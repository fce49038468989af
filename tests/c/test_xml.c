/* The S3 answers as servers send them, and as an attacker or a broken connection would. */
#include "backends/xml.h"
#include "test.h"

#include <libxml/parser.h>
#include <libxml/xmlmemory.h>
#include <pthread.h>

#define HEAD         "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define S3_NAMESPACE " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* --- a sink that remembers --- */

enum { KEPT_MAX = 8 };

struct kept {
    size_t count, resets;
    char keys[KEPT_MAX][64];
    struct s3d_object objects[KEPT_MAX];
    enum s3d_code refusal; /* what add answers when not OK */
    void *memory;          /* when `allocate`: from the counted allocator */
    bool allocate;
};

static void kept_reset(void *context)
{
    struct kept *kept = context;
    kept->count = 0;
    kept->resets++;
    s3d_free(kept->memory);
    kept->memory = NULL;
}

static enum s3d_code kept_add(void *context, const char *key, const struct s3d_object *object,
                              struct s3d_error *error)
{
    struct kept *kept = context;
    if (kept->refusal) {
        return s3d_fail(error, kept->refusal, "the sink refused");
    }
    if (kept->allocate) {
        void *memory = s3d_resize(kept->memory, (kept->count + 1) * 64);
        if (!memory) {
            return s3d_fail_memory(error, 64);
        }
        kept->memory = memory;
    }
    if (kept->count < KEPT_MAX) {
        s3d_copy_text(kept->keys[kept->count], sizeof kept->keys[0], key, strlen(key));
        kept->objects[kept->count] = *object;
    }
    kept->count++;
    return S3D_OK;
}

static enum s3d_code list_bytes(const char *text, size_t length, struct kept *kept,
                                char token[256], struct s3d_error *error)
{
    struct s3d_list_sink sink = {kept, kept_reset, kept_add};
    enum s3d_code code = s3d_xml_list(text, length, &sink, token, 256, error);
    CHECK(!code || !token[0]);
    CHECK(!code || !error || error->code == code);
    return code;
}

static enum s3d_code list_text(const char *text, struct kept *kept, char token[256])
{
    struct s3d_error error;
    return list_bytes(text, strlen(text), kept, token, &error);
}

/* --- good answers --- */

static const char good_list[] = HEAD
    "<ListBucketResult" S3_NAMESPACE "><Name>bucket</Name><Prefix>a</Prefix>"
    "<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</"
    "NextContinuationToken><KeyCount>2</KeyCount><MaxKeys>2</MaxKeys>"
    "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
    "<Contents><Key>a+b%2Bc%25/%C3%A9&amp;d</Key>"
    "<LastModified>2009-10-12T17:50:30.000Z</LastModified>"
    "<ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag>"
    "<Size>434234</Size><StorageClass>STANDARD</StorageClass>"
    "<Owner><ID>75aa57f0</ID><DisplayName>mtd@amazon.com</DisplayName></Owner></Contents>\n"
    "  <Contents>\n    <Size>18446744073709551615</Size>\n    <Key>%0A%7f</Key>\n"
    "  </Contents>"
    "<CommonPrefixes><Prefix>photos/</Prefix></CommonPrefixes>"
    "</ListBucketResult>\n";

static void test_list(void)
{
    struct kept kept = {0};
    char token[256];
    CHECK_CODE(list_text(good_list, &kept, token), S3D_OK);
    CHECK_TEXT(token, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
    CHECK(kept.count == 2 && kept.resets == 1);
    CHECK_TEXT(kept.keys[0], "a b+c%/\xC3\xA9&d");
    CHECK_TEXT(kept.objects[0].etag, "\"fba9dede5f27731c9771645a39863328\"");
    CHECK(kept.objects[0].size_bytes == 434234);
    CHECK(kept.objects[0].modified_s == 1255369830);
    CHECK_TEXT(kept.keys[1], "\n\x7f");
    CHECK_TEXT(kept.objects[1].etag, "");
    CHECK(kept.objects[1].size_bytes == UINT64_MAX);
    CHECK(kept.objects[1].modified_s == 0);
}

/* Prefixed names, no declaration, CDATA, comments, blanks in front: all the same document. */
static void test_other_spellings(void)
{
    struct kept kept = {0};
    char token[256];
    CHECK_CODE(list_text(" \n\r\t<s3:ListBucketResult xmlns:s3=\"urn:x\"><!-- note -->"
                         "<s3:Contents><s3:Key>pl<!-- in -->a<![CDATA[i<n]]>&#x21;</s3:Key>"
                         "<s3:Size>0</s3:Size></s3:Contents>"
                         "<?pi data?><s3:IsTruncated>false</s3:IsTruncated>"
                         "<s3:NextContinuationToken>left over</s3:NextContinuationToken>"
                         "</s3:ListBucketResult>",
                         &kept, token),
               S3D_OK);
    CHECK_TEXT(token, "");
    CHECK(kept.count == 1);
    CHECK_TEXT(kept.keys[0], "plai<n!");
}

#define LISTED(key)                                                                            \
    "<ListBucketResult><Prefix>" key "</Prefix><IsTruncated>true</IsTruncated>"                \
    "<NextContinuationToken>" key "</NextContinuationToken><Contents><Key>" key                \
    "</Key><Size>1</Size></Contents></ListBucketResult>"

/* As S3 and Ceph write them, against the rules. */
static void test_control_characters(void)
{
    static const char *const good[][2] = {
        {LISTED("a&#1;b"), "a\001b"},
        {LISTED("&#x1b;&#X41;"), NULL}, /* XML knows a small x only */
        {LISTED("&#x1b;[2J&#31;&#x1F;&#031;&#x0001;"), "\x1b[2J\x1F\x1F\x1F\001"},
        {LISTED("&#9;&#x0a;&#13;&#32;&#65;"), "\t\n\r A"},
        {LISTED("\xEF\xB7\x91"), "\xEF\xB7\x91"},         /* a noncharacter of its own, alone */
        {LISTED("\xEF\xB7\x91&#1;"), NULL},               /* could not be told apart */
        {LISTED("\xEF\xB7&#1;"), NULL},                   /* no UTF-8 */
        {LISTED("\xEF\xB7\xB0&#1;"), "\xEF\xB7\xB0\001"}, /* U+FDF0 is a letter */
        {LISTED("&#0;"), NULL},
        {LISTED("a&#x00;b"), NULL},
        {LISTED("&#;"), NULL},
        {LISTED("&#x;"), NULL},
        {LISTED("&#1"), NULL},
        {LISTED("&#1 ;"), NULL},
        {LISTED("&#xFFFFFFFF1;"), NULL},
        {LISTED("&#4294967297;"), NULL},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        struct kept kept = {0};
        char token[256];
        CHECK_CODE(list_text(good[i][0], &kept, token), good[i][1] ? S3D_OK : S3D_PROTOCOL);
        if (good[i][1]) {
            CHECK_TEXT(kept.keys[0], good[i][1]);
            CHECK_TEXT(token, good[i][1]);
        }
    }
}

static void test_keys_without_encoding(void)
{
    struct kept kept = {0};
    char token[256];
    CHECK_CODE(list_text("<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
                         "<Key>a+b%2Bc%</Key><Size>1</Size></Contents></ListBucketResult>",
                         &kept, token),
               S3D_OK);
    CHECK_TEXT(kept.keys[0], "a+b%2Bc%");
}

static void test_encoding_told_late(void)
{
    struct kept kept = {0};
    char token[256];
    CHECK_CODE(
        list_text("<ListBucketResult><Contents><Key>a+b%2Bc</Key><Size>1</Size></Contents>"
                  "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
                  "<Contents><Key>d%20e</Key><Size>1</Size></Contents>"
                  "</ListBucketResult>",
                  &kept, token),
        S3D_OK);
    CHECK(kept.count == 2 && kept.resets == 2);
    CHECK_TEXT(kept.keys[0], "a b+c");
    CHECK_TEXT(kept.keys[1], "d e");
}

static int64_t listed_date(const char *date, enum s3d_code expected)
{
    char text[512], token[256];
    snprintf(text, sizeof text,
             "<ListBucketResult><Contents><Key>k</Key><Size>1</Size><LastModified>%s"
             "</LastModified></Contents><IsTruncated>false</IsTruncated></ListBucketResult>",
             date);
    struct kept kept = {0};
    CHECK_CODE(list_text(text, &kept, token), expected);
    return kept.objects[0].modified_s;
}

static void test_dates(void)
{
    CHECK(listed_date("1970-01-01T00:00:00Z", S3D_OK) == 0);
    CHECK(listed_date("1969-12-31T23:59:59.999Z", S3D_OK) == -1);
    CHECK(listed_date("2000-02-29T12:00:00Z", S3D_OK) == 951825600);
    CHECK(listed_date("2024-02-29T23:59:59.1Z", S3D_OK) == 1709251199);
    CHECK(listed_date("2024-03-01T00:00:00.000000Z", S3D_OK) == 1709251200);
    CHECK(listed_date("2100-03-01T00:00:00Z", S3D_OK) == 4107542400);
    CHECK(listed_date("9999-12-31T23:59:59Z", S3D_OK) == 253402300799);
    CHECK(listed_date("0000-01-01T00:00:00Z", S3D_OK) == -62167219200);
    static const char *const bad[] = {
        "",
        "2009",
        "2009-13-01T00:00:00Z",
        "2009-00-01T00:00:00Z",
        "2009-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "2009-01-00T00:00:00Z",
        "2009-01-01T24:00:00Z",
        "2009-01-01T00:60:00Z",
        "2009-01-01T00:00:61Z",
        "2009-01-01T00:00:00",
        "2009-01-01T00:00:00.Z",
        "2009-01-01T00:00:00+01:00",
        "2009-01-01T00:00:00Zx",
        "2009-01-01 00:00:00Z",
        "-009-01-01T00:00:00Z",
        "Mon, 12 Oct 2009 17:50:30 GMT",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        listed_date(bad[i], S3D_PROTOCOL);
    }
}

static void test_upload_id(void)
{
    static const char text[] =
        HEAD "<InitiateMultipartUploadResult" S3_NAMESPACE "><Bucket>b</Bucket><Key>k</Key>"
             "<UploadId>VXBsb2FkIElEIGZvciA2aWWpbmcncyBteS1tb3ZpZS5tMnRzIHVwbG9hZA</UploadId>"
             "</InitiateMultipartUploadResult>";
    char id[S3D_UPLOAD_ID_MAX];
    struct s3d_error error;
    CHECK_CODE(s3d_xml_upload_id(text, sizeof text - 1, id, sizeof id, &error), S3D_OK);
    CHECK_TEXT(id, "VXBsb2FkIElEIGZvciA2aWWpbmcncyBteS1tb3ZpZS5tMnRzIHVwbG9hZA");
    char small[8];
    CHECK_CODE(s3d_xml_upload_id(text, sizeof text - 1, small, sizeof small, &error),
               S3D_PROTOCOL);
    CHECK_TEXT(small, "");

    static const char *const bad[] = {
        "<InitiateMultipartUploadResult/>",
        "<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>",
        "<InitiateMultipartUploadResult><UploadId>a<b/></UploadId>"
        "</InitiateMultipartUploadResult>",
        "<InitiateMultipartUploadResult><X><UploadId>a</UploadId></X>"
        "</InitiateMultipartUploadResult>",
        "<Error><Code>NoSuchBucket</Code></Error>",
        "",
        "   ",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK_CODE(s3d_xml_upload_id(bad[i], strlen(bad[i]), id, sizeof id, &error),
                   S3D_PROTOCOL);
        CHECK_TEXT(id, "");
    }
}

static const char good_complete[] =
    HEAD "<CompleteMultipartUploadResult" S3_NAMESPACE "><Location>http://b.s3/k</Location>"
         "<Bucket>b</Bucket><Key>k</Key><ETag>&quot;3858f62230ac3c915f300c664312c11f-9&quot;"
         "</ETag></CompleteMultipartUploadResult>";

static void test_complete(void)
{
    char etag[S3D_ETAG_MAX];
    struct s3d_error error;
    CHECK_CODE(
        s3d_xml_complete(good_complete, strlen(good_complete), etag, sizeof etag, &error),
        S3D_OK);
    CHECK_TEXT(etag, "\"3858f62230ac3c915f300c664312c11f-9\"");
    static const char bare[] = "\n<CompleteMultipartUploadResult/>";
    CHECK_CODE(s3d_xml_complete(bare, strlen(bare), etag, sizeof etag, &error), S3D_OK);
    CHECK_TEXT(etag, "");
    CHECK_CODE(s3d_xml_complete(good_complete, strlen(good_complete), etag, 5, &error),
               S3D_PROTOCOL);
    CHECK_TEXT(etag, "");
    static const char refused[] = "<Error><Code>InternalError</Code></Error>";
    CHECK_CODE(s3d_xml_complete(refused, strlen(refused), etag, sizeof etag, &error),
               S3D_PROTOCOL);
    CHECK(strstr(error.message, "<Error>") != NULL);
    CHECK_CODE(s3d_xml_complete("", 0, etag, sizeof etag, &error), S3D_PROTOCOL);
}

/* As Ceph has it: a character cut in the middle, where nobody looks. */
static void test_complete_with_a_broken_character(void)
{
    static const char cut[] = "<CompleteMultipartUploadResult>"
                              "<Location>/b/\xC3\xA9\xC3&#x00;</Location>"
                              "<ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
    char etag[S3D_ETAG_MAX];
    CHECK_CODE(s3d_xml_complete(cut, sizeof cut - 1, etag, sizeof etag, NULL), S3D_OK);
    CHECK_TEXT(etag, "\"e-1\"");
    CHECK_CODE(s3d_xml_complete(cut, sizeof cut - 2, etag, sizeof etag, NULL), S3D_PROTOCOL);
    CHECK_TEXT(etag, "");
}

/* S3 keeps a slow completion's connection alive with blanks. */
static void test_complete_after_blanks(void)
{
    enum { BLANKS = 100000 };
    size_t length = BLANKS + strlen(good_complete);
    char *text = malloc(length + 1);
    memset(text, ' ', BLANKS);
    memcpy(text + BLANKS, good_complete, strlen(good_complete) + 1);
    char etag[S3D_ETAG_MAX];
    CHECK_CODE(s3d_xml_complete(text, length, etag, sizeof etag, NULL), S3D_OK);
    CHECK_TEXT(etag, "\"3858f62230ac3c915f300c664312c11f-9\"");
    free(text);
}

static const char good_error[] =
    HEAD "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is "
         "wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region>"
         "<RequestId>4442587FB7D0A2F9</RequestId><HostId>Uuag1LuByRx9e6j5Onimru9pO4ZVKnJ2</"
         "HostId></Error>";

static bool parse_error(const char *text, struct s3d_xml_error *out)
{
    memset(out, 'x', sizeof *out);
    bool is_error = s3d_xml_error(text, strlen(text), out);
    CHECK(is_error ||
          (!out->code[0] && !out->message[0] && !out->request_id[0] && !out->region[0]));
    return is_error;
}

static void test_error(void)
{
    struct s3d_xml_error out;
    CHECK(parse_error(good_error, &out));
    CHECK_TEXT(out.code, "AuthorizationHeaderMalformed");
    CHECK_TEXT(out.message, "the region 'us-east-1' is wrong; expecting 'eu-west-1'");
    CHECK_TEXT(out.request_id, "4442587FB7D0A2F9");
    CHECK_TEXT(out.region, "eu-west-1");

    CHECK(parse_error("<Error/>", &out));
    CHECK_TEXT(out.code, "");
    CHECK(parse_error("<Error>text<Code>A<b>c</b></Code><Other><Code>no</Code></Other></Error>",
                      &out));
    CHECK_TEXT(out.code, "");

    CHECK(!parse_error("", &out));
    CHECK(!parse_error("slow down", &out));
    CHECK(!parse_error("{\"error\": \"<Error>\"}", &out));
    CHECK(!parse_error(good_complete, &out));
    CHECK(!parse_error("<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>",
                       &out));
    CHECK(!parse_error("<html><head><title>503</title></head><body><hr></body></html>", &out));
}

static void test_error_strings_are_cut(void)
{
    char text[15000], message[12000];
    memset(message, 'm', sizeof message - 1);
    message[sizeof message - 1] = '\0';
    snprintf(text, sizeof text, "<Error><Code>%.100s</Code><Message>%s</Message></Error>",
             message, message);
    struct s3d_xml_error out;
    CHECK(parse_error(text, &out));
    CHECK(strlen(out.code) == sizeof out.code - 1);
    CHECK(strlen(out.message) == sizeof out.message - 1);
}

/* --- wrong answers --- */

#define PAGE(inside)                                                                           \
    "<ListBucketResult><EncodingType>url</EncodingType>" inside                                \
    "<IsTruncated>false</IsTruncated></ListBucketResult>"
#define OBJECT(inside) PAGE("<Contents>" inside "</Contents>")

static void test_bad_lists(void)
{
    static const char *const bad[] = {
        "",
        "<html><body>hello</body></html>",
        "<ListAllMyBucketsResult/>",
        "<ListBucketResult/>", /* no IsTruncated */
        "<ListBucketResult><IsTruncated>maybe</IsTruncated></ListBucketResult>",
        "<ListBucketResult><IsTruncated/></ListBucketResult>",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", /* no token */
        OBJECT(""),
        OBJECT("<Key>k</Key>"),
        OBJECT("<Size>1</Size>"),
        OBJECT("<Key/><Size>1</Size>"),
        OBJECT("<Key>a</Key><Key>b</Key><Size>1</Size>"),
        OBJECT("<Key>a</Key><Size>1</Size><Size>2</Size>"),
        OBJECT("<Key>a<b/>c</Key><Size>1</Size>"),
        OBJECT("<Key>a%00b</Key><Size>1</Size>"),
        OBJECT("<Key>a%</Key><Size>1</Size>"),
        OBJECT("<Key>a%4</Key><Size>1</Size>"),
        OBJECT("<Key>a%4g</Key><Size>1</Size>"),
        OBJECT("<Key>a%:1</Key><Size>1</Size>"),
        OBJECT("<Key>&#0;</Key><Size>1</Size>"),
        OBJECT("<Key>a\xFF</Key><Size>1</Size>"),
        OBJECT("<Key>k</Key><Size/>"),
        OBJECT("<Key>k</Key><Size>-1</Size>"),
        OBJECT("<Key>k</Key><Size> 1</Size>"),
        OBJECT("<Key>k</Key><Size>1e3</Size>"),
        OBJECT("<Key>k</Key><Size>18446744073709551616</Size>"),
        OBJECT("<Key>k</Key><Size>99999999999999999999999999999999999999</Size>"),
        OBJECT("<Key>k</Key><Size>1</Size>") "<more/>",
        OBJECT("<Key>k</Key><Size>1</Size>") "trailing",
        PAGE("<Contents><Key>k</Key><Size>1</Size></Content>"),
        PAGE("&undefined;"),
        "<ListBucketResult><IsTruncated>false</IsTruncated>",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct kept kept = {0};
        char token[256];
        enum s3d_code code = list_text(bad[i], &kept, token);
        if (code != S3D_PROTOCOL) {
            fprintf(stderr, "%s: %s\n", s3d_code_name(code), bad[i]);
        }
        CHECK(code == S3D_PROTOCOL);
    }
}

/* Text of `count` copies of `c` inside a listing's element; the caller frees. */
static char *list_with_long(const char *before, size_t count, const char *after)
{
    size_t length = strlen(before) + count + strlen(after);
    char *text = malloc(length + 1);
    memcpy(text, before, strlen(before));
    memset(text + strlen(before), 'k', count);
    strcpy(text + strlen(before) + count, after);
    return text;
}

static void check_long_list(const char *before, size_t count, const char *after,
                            enum s3d_code expected)
{
    char *text = list_with_long(before, count, after), token[256];
    struct kept kept = {0};
    CHECK_CODE(list_text(text, &kept, token), expected);
    free(text);
}

static void test_long_texts(void)
{
    static const char key[] = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
                              "<Size>1</Size><Key>";
    static const char key_end[] = "</Key></Contents></ListBucketResult>";
    check_long_list(key, 3072, key_end, S3D_OK);
    check_long_list(key, 8192, key_end, S3D_OK);
    check_long_list(key, 8193, key_end, S3D_PROTOCOL);
    check_long_list(key, 100000, key_end, S3D_PROTOCOL);
    check_long_list(key, 9 * 1024 * 1024, key_end, S3D_PROTOCOL);

    static const char token[] = "<ListBucketResult><IsTruncated>true</IsTruncated>"
                                "<NextContinuationToken>";
    static const char token_end[] = "</NextContinuationToken></ListBucketResult>";
    check_long_list(token, 255, token_end, S3D_OK);
    check_long_list(token, 256, token_end, S3D_PROTOCOL);

    static const char etag[] = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
                               "<Key>k</Key><Size>1</Size><ETag>";
    static const char etag_end[] = "</ETag></Contents></ListBucketResult>";
    check_long_list(etag, S3D_ETAG_MAX - 1, etag_end, S3D_OK);
    check_long_list(etag, S3D_ETAG_MAX, etag_end, S3D_PROTOCOL);
    /* An unknown element of any name and any text short of the gap is passed over. */
    check_long_list("<ListBucketResult><IsTruncated>false</IsTruncated><New>", 16000,
                    "</New></ListBucketResult>", S3D_OK);
    check_long_list("<ListBucketResult><IsTruncated>false</IsTruncated><N", 300,
                    "/></ListBucketResult>", S3D_PROTOCOL);
}

static void test_size_ceiling(void)
{
    static const char end[] = "<ListBucketResult><IsTruncated>false</IsTruncated>"
                              "</ListBucketResult>";
    enum { CEILING = 8 * 1024 * 1024 };
    char *text = malloc(CEILING + 1), token[256];
    struct kept kept = {0};
    memset(text, ' ', CEILING + 1);
    memcpy(text + CEILING - strlen(end), end, strlen(end));
    CHECK_CODE(list_bytes(text, CEILING, &kept, token, NULL), S3D_OK);
    CHECK_CODE(list_bytes(text, CEILING + 1, &kept, token, NULL), S3D_PROTOCOL);
    free(text);
}

/* --- hostile answers --- */

static void refuse_everywhere(const char *text, size_t length)
{
    struct kept kept = {0};
    struct s3d_error error;
    struct s3d_xml_error out;
    char token[256], id[S3D_UPLOAD_ID_MAX], etag[S3D_ETAG_MAX];
    CHECK_CODE(list_bytes(text, length, &kept, token, &error), S3D_PROTOCOL);
    CHECK_CODE(s3d_xml_upload_id(text, length, id, sizeof id, &error), S3D_PROTOCOL);
    CHECK_CODE(s3d_xml_complete(text, length, etag, sizeof etag, &error), S3D_PROTOCOL);
    CHECK(!s3d_xml_error(text, length, &out));
}

static void test_billion_laughs(void)
{
    static const char text[] =
        "<?xml version=\"1.0\"?>\n<!DOCTYPE Error [\n<!ENTITY a \"lol\">\n"
        "<!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">\n"
        "<!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">\n"
        "<!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;\">\n"
        "<!ENTITY e \"&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;\">\n"
        "<!ENTITY f \"&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;\">\n"
        "<!ENTITY g \"&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;\">\n"
        "<!ENTITY h \"&g;&g;&g;&g;&g;&g;&g;&g;&g;&g;\">\n]>\n"
        "<Error><Code>&h;</Code><Message>&h;&h;</Message></Error>";
    refuse_everywhere(text, sizeof text - 1);
    struct s3d_error error;
    char etag[S3D_ETAG_MAX];
    CHECK_CODE(s3d_xml_complete(text, sizeof text - 1, etag, sizeof etag, &error),
               S3D_PROTOCOL);
    CHECK(strstr(error.message, "document type") != NULL);
}

/* libxml2's opener of files and URLs, watched: nothing may be opened. */
static unsigned long opened;

static xmlParserInputPtr watch_loader(const char *url, const char *id, xmlParserCtxtPtr parser)
{
    (void)url, (void)id, (void)parser;
    opened++;
    return NULL;
}

static void test_external_entities(void)
{
    static const char *const hostile[] = {
        "<!DOCTYPE Error [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>"
        "<Error><Code>&x;</Code></Error>",
        "<!DOCTYPE Error SYSTEM \"http://127.0.0.1:1/evil.dtd\"><Error><Code>A</Code></Error>",
        "<!DOCTYPE Error PUBLIC \"-//X//Y\" \"file:///etc/passwd\"><Error/>",
        "<!DOCTYPE Error [<!ENTITY % p SYSTEM \"file:///etc/passwd\">%p;]><Error/>",
        "<!DOCTYPE Error><Error><Code>A</Code></Error>",
        "<!DOCTYPE Error []><Error><Code>A</Code></Error>",
        "<!DOCTYPE Error [<!ATTLIST Error a CDATA \"x\">]><Error/>",
        "<Error xmlns:xi=\"http://www.w3.org/2001/XInclude\"><xi:include "
        "href=\"file:///etc/passwd\" parse=\"text\"/>&x;</Error>",
    };
    xmlExternalEntityLoader before = xmlGetExternalEntityLoader();
    xmlSetExternalEntityLoader(watch_loader);
    for (size_t i = 0; i < COUNT(hostile); i++) {
        refuse_everywhere(hostile[i], strlen(hostile[i]));
    }
    xmlSetExternalEntityLoader(before);
    CHECK(opened == 0);
}

/* No other encoding can smuggle in what UTF-8 does not show. */
static void test_encodings(void)
{
    struct s3d_xml_error out;
    char utf16[256];
    size_t length = 0;
    utf16[length++] = (char)0xFF;
    utf16[length++] = (char)0xFE;
    for (const char *c = "<!DOCTYPE Error [<!ENTITY x 'y'>]><Error>&x;</Error>"; *c; c++) {
        utf16[length++] = *c;
        utf16[length++] = '\0';
    }
    refuse_everywhere(utf16, length);
    CHECK(s3d_xml_error("\xEF\xBB\xBF<Error/>", 11, &out));
    refuse_everywhere("<Error>\0</Error>", 16);
    refuse_everywhere("<Error/>\0\0", 10);
    refuse_everywhere("\0\0\0\0", 4);
}

static void test_truncated_everywhere(void)
{
    struct s3d_xml_error out;
    struct s3d_error error;
    char etag[S3D_ETAG_MAX], token[256];
    for (size_t length = 0; length < strlen(good_error); length++) {
        char *exact = malloc(length + !length); /* so that the sanitizer sees a byte too many */
        memcpy(exact, good_error, length);
        CHECK(!s3d_xml_error(exact, length, &out));
        free(exact);
    }
    for (size_t length = 0; length < strlen(good_complete); length++) {
        CHECK_CODE(s3d_xml_complete(good_complete, length, etag, sizeof etag, &error),
                   S3D_PROTOCOL);
    }
    for (size_t length = 0; length < strlen(good_list) - 1; length++) { /* a final newline */
        struct kept kept = {0};
        char *exact = malloc(length + !length);
        memcpy(exact, good_list, length);
        CHECK_CODE(list_bytes(exact, length, &kept, token, &error), S3D_PROTOCOL);
        free(exact);
    }
}

/* Every byte of a listing replaced by each of a few awkward ones: any answer but a crash. */
static void test_corrupted_everywhere(void)
{
    static const char awkward[] = {'<', '>', '&', '"', '\0', '/',
                                   '!', '[', ';', ':', '%',  '\xC3'};
    char *text = malloc(sizeof good_list), token[256];
    for (size_t at = 0; at < strlen(good_list); at++) {
        for (size_t i = 0; i < sizeof awkward; i++) {
            memcpy(text, good_list, sizeof good_list);
            text[at] = awkward[i];
            struct kept kept = {0};
            struct s3d_error error;
            enum s3d_code code = list_bytes(text, strlen(good_list), &kept, token, &error);
            CHECK(code == S3D_OK || code == S3D_PROTOCOL);
        }
    }
    free(text);
}

static void check_nested(const char *root, size_t levels, bool closed)
{
    size_t length =
        strlen(root) + 2 + levels * 3 + (closed ? levels * 4 + strlen(root) + 3 : 0);
    char *text = malloc(length + 1), *to = text;
    to += sprintf(to, "<%s>", root);
    for (size_t i = 0; i < levels; i++, to += 3) {
        memcpy(to, "<a>", 3);
    }
    for (size_t i = 0; closed && i < levels; i++, to += 4) {
        memcpy(to, "</a>", 4);
    }
    if (closed) {
        sprintf(to, "</%s>", root);
    }
    refuse_everywhere(text, length);
    free(text);
}

static void test_deep_nesting(void)
{
    static const char *const roots[] = {"Error", "ListBucketResult", "a"};
    for (size_t i = 0; i < COUNT(roots); i++) {
        check_nested(roots[i], 100000, true);
        check_nested(roots[i], 100000, false);
    }
    check_nested("Error", 16, true);
    struct s3d_xml_error out;
    CHECK(parse_error("<Error><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a></a></a></a></a></a>"
                      "</a></a></a></a></a></a></a></a></a></a><Code>A</Code></Error>",
                      &out));
    CHECK_TEXT(out.code, "A");
}

/* libxml2 compares each attribute of a tag with every other: an answer that is one tag of 8 MiB
 * takes minutes of CPU unless it is refused unread; many tags as large as they may be must not.
 * (The test's runner ends it if it hangs.) */
static char *add_attributes(char *to, size_t bytes)
{
    char *from = to;
    for (unsigned i = 0; (size_t)(to - from) + 16 < bytes; i++) {
        to += sprintf(to, " a%x=\">\"", i);
    }
    return to;
}

static void test_many_attributes(void)
{
    enum { BYTES = 8 * 1024 * 1024 - 64, TAG_BYTES = 16 * 1024 };
    char *text = malloc(BYTES + 64), *to = text;
    struct s3d_xml_error out;
    to += sprintf(to, "<Error");
    to = add_attributes(to, BYTES - 16);
    to += sprintf(to, "/>");
    CHECK(!s3d_xml_error(text, (size_t)(to - text), &out));

    to = text + sprintf(text, "<Error>");
    while (to < text + BYTES - TAG_BYTES) {
        to += sprintf(to, "<a");
        to = add_attributes(to, TAG_BYTES - 8);
        to += sprintf(to, "/>");
    }
    to += sprintf(to, "</Error>");
    CHECK(s3d_xml_error(text, (size_t)(to - text), &out));
    free(text);
}

/* --- failures --- */

static void test_sink_refusal(void)
{
    struct kept kept = {.refusal = S3D_CANCELLED};
    struct s3d_error error;
    char token[256];
    CHECK_CODE(list_bytes(good_list, strlen(good_list), &kept, token, &error), S3D_CANCELLED);
    CHECK_TEXT(error.message, "the sink refused");
}

static enum s3d_code attempt_list(void)
{
    struct kept kept = {.allocate = true};
    struct s3d_error error;
    char token[256];
    enum s3d_code code = list_bytes(good_list, strlen(good_list), &kept, token, &error);
    s3d_free(kept.memory);
    return code;
}

static enum s3d_code attempt_control_list(void)
{
    static const char list[] = LISTED("&#1;");
    struct kept kept = {.allocate = true};
    char token[256];
    enum s3d_code code = list_bytes(list, sizeof list - 1, &kept, token, NULL);
    s3d_free(kept.memory);
    return code;
}

static void test_sink_out_of_memory(void)
{
    CHECK(test_torture(attempt_list, 0) == 2);
    CHECK(test_torture(attempt_control_list, 0) == 2); /* one of them the text's */
}

/* libxml2's own allocations, counted down as core/mem.h does ours. Atomic for test_threads. */
static _Atomic unsigned long countdown;
static _Atomic bool fired;

static bool xml_fault(void)
{
    if (countdown && --countdown == 0) {
        fired = true;
    }
    return fired;
}

static void *xml_malloc(size_t bytes)
{
    return xml_fault() ? NULL : malloc(bytes);
}

static void *xml_realloc(void *memory, size_t bytes)
{
    return xml_fault() ? NULL : realloc(memory, bytes);
}

static char *xml_strdup(const char *text)
{
    return xml_fault() ? NULL : strdup(text);
}

static unsigned long xml_torture(enum s3d_code (*attempt)(void))
{
    for (unsigned long n = 1;; n++) {
        CHECK(n < 100000);
        fired = false;
        countdown = n;
        enum s3d_code code = attempt();
        bool hit = fired;
        countdown = 0;
        fired = false;
        if (!hit) {
            CHECK_CODE(code, S3D_OK);
            return n - 1;
        }
        /* libxml2 2.9 tells some of its failures as broken XML; none may pass for success. */
        CHECK(code == S3D_NO_MEMORY || code == S3D_PROTOCOL);
    }
}

static enum s3d_code attempt_complete(void)
{
    char etag[S3D_ETAG_MAX];
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code =
        s3d_xml_complete(good_complete, strlen(good_complete), etag, sizeof etag, &error);
    CHECK(error.code == code);
    return code;
}

/* From the n-th allocation on all fail, as when memory is gone. */
static void test_libxml2_out_of_memory(void)
{
    printf("   %lu + %lu allocations failed\n", xml_torture(attempt_complete),
           xml_torture(attempt_list));
}

static void *parse_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < 200; i++) {
        CHECK_CODE(attempt_list(), S3D_OK);
        refuse_everywhere("<Error", 6);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++) {
        CHECK(pthread_create(&threads[i], NULL, parse_often, NULL) == 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

int main(void)
{
    CHECK(xmlMemSetup(free, xml_malloc, xml_realloc, xml_strdup) == 0);
    RUN(test_threads); /* first, so that they race for the initialisation */
    RUN(test_list);
    RUN(test_other_spellings);
    RUN(test_control_characters);
    RUN(test_keys_without_encoding);
    RUN(test_encoding_told_late);
    RUN(test_dates);
    RUN(test_upload_id);
    RUN(test_complete);
    RUN(test_complete_with_a_broken_character);
    RUN(test_complete_after_blanks);
    RUN(test_error);
    RUN(test_error_strings_are_cut);
    RUN(test_bad_lists);
    RUN(test_long_texts);
    RUN(test_size_ceiling);
    RUN(test_billion_laughs);
    RUN(test_external_entities);
    RUN(test_encodings);
    RUN(test_truncated_everywhere);
    RUN(test_corrupted_everywhere);
    RUN(test_deep_nesting);
    RUN(test_many_attributes);
    RUN(test_sink_refusal);
    RUN(test_sink_out_of_memory);
    RUN(test_libxml2_out_of_memory);
    return 0;
}
