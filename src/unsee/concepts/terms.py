"""The words of :mod:`.refuse`: for minors and for what is sexual, in sixteen languages, clinical and as few as do.

Words are written as :func:`.refuse.fold` leaves them: lower case, without accents. ``AMBIGUOUS`` ones mean something
else in another language (German *kind*, French *nu*): they count only beside a word of their own language. A word that
ends in ``-`` stands for all that begin so. Scripts without spaces, or with many endings, have patterns.
"""

from __future__ import annotations

ALWAYS = """
    loli lolis lolita lolitas lolicon lolicons shota shotas shotacon jailbait csam pedo pedos pedophil- paedophil-
    """

MINOR = {
    "en": """
        baby babies newborn newborns neonate neonates infant infants infancy toddler toddlers tot tots child children
        childs childrens childlike kid kids kiddo kiddos kiddie kiddies minor minors juvenile juveniles youngster
        youngsters preteen preteens preteenage tween tweens tweenage teen teens teenage teenaged teenager teenagers
        adolescent adolescents adolescence pubescent prepubescent prepubescents prepubertal pubertal puberty underage
        underaged girl girls boy boys schoolgirl schoolgirls schoolboy schoolboys schoolkid schoolkids schoolchild
        schoolchildren schooler schoolers schoolage preschool preschooler preschoolers kindergarten kindergartner
        kindergartners kindergartener kindergarteners grader graders daughter daughters stepdaughter stepdaughters
        granddaughter granddaughters grandson grandsons grandchild grandchildren niece nieces nephew nephews stepson
        lassie laddie youngling younglings toddlerhood childhood girlhood boyhood
        """,
    "de": """
        kind kinder kindes kindern kleinkind kleinkinder schulkind schulkinder kindlich- madchen maedchen schulmadchen
        schulmaedchen junge jungen jungs saugling sauglinge saeugling minderjahrig- minderjaehrig- jugendlich- teenie
        teenies schuler schulerin schuelerin grundschul- tochter vorpubertar-
        """,
    "fr": """
        enfant enfants enfance enfantin- fille filles fillette fillettes garcon garcons garconnet gamin gamine gamins
        gamines bebe bebes nourrisson nourrissons mineur mineure mineurs mineures ado ados adolescente adolescentes
        ecolier ecoliere ecoliers ecolieres collegien- lyceen- prepubere- impubere-
        """,
    "es": """
        nina ninas nino ninos infantil chica chicas chico chicos muchacha muchachas muchacho muchachos menor menores
        bebe bebes nena nenas nene adolescente adolescentes colegiala colegialas colegial escolar escolares quinceanera
        chiquilla chiquillo parvulo parvula prepuber
        """,
    "it": """
        bambina bambine bambino bambini ragazza ragazze ragazzo ragazzi ragazzina ragazzine ragazzino ragazzini
        minorenne minorenni neonato neonata neonati adolescente adolescenti fanciulla fanciullo infante scolara scolaro
        """,
    "pt": """
        crianca criancas menina meninas menino meninos garota garotas garoto garotos menor menores bebe bebes
        adolescente adolescentes infantil moleque colegial
        """,
    "nl": """
        kind kinderen kindje kindjes kleuter kleuters peuter peuters meisje meisjes jongen jongens jongetje jongetjes
        tiener tieners minderjarig- schoolmeisje schoolmeisjes zuigeling baby dochter
        """,
    "pl": """
        dziecko dziecka dzieci dzieciom dziecieca dzieciecy dziewczyna dziewczyny dziewczynka dziewczynki dziewczynke
        dziewczynek chlopiec chlopca chlopcy chlopak niemowle niemowleta nastolatka nastolatki nastolatek nastoletni-
        nieletni- maloletni- niepelnoletni- uczennica uczennice uczen przedszkolak- niemowlak
        """,
    "tr": """
        cocuk cocuk- cocug- kiz kizi kizlar kizlari bebek bebekler bebeg- oglan ergen ergenler kucuk yavru liseli
        """,
}  # fmt: skip

SEXUAL = {
    "en": """
        nude nudes nudity nudist- nudism naked nakedness nekkid naturist- naturism nsfw sex sexy sexier sexiest sexual-
        sexualiz- sexualis- sexting sext erotic- erotism porn- pornstar topless bottomless undress- unclothed unclad
        disrobed disrobing clotheless clothless lingerie underwear panties panty knickers bra bras thong negligee
        genital- penis penises vagina vaginas vulva anus anal crotch breast breasts boobs boob tits titties nipple
        nipples areola pussy orgasm- intercourse coitus fellatio masturbat- ejaculat- aroused arousal arousing seductive
        seductively seduction sensual- sultry provocative- lewd lewds hentai ecchi ahegao fetish fetishes kinky kink
        bdsm bondage stripper strippers striptease stripping lust lustful lustfully horny slut- whore whores hooker
        prostitut- brothel rape raped raping rapist molest- incest sodomy upskirt cameltoe voyeur onlyfans centerfold
        xxx xrated uncensored fuck fucked fucking blowjob handjob cum cumshot orgy foreplay camgirl
        """,
    "de": """
        nackt- nackig- unbekleidet- ausgezogen- entblost- entbloesst- unterwasche unterwaesche busen bruste brueste
        erotisch- sexuell- geschlechtsverkehr freizugig- obszon-
        """,
    "fr": """
        nu nue nus nues denude- deshabille- erotique- sexe sexuel- sexuelle- seins lingerie sous-vetements
        pornographi- denudee obscene-
        """,
    "es": "desnud- sexo sexual- sexi erotic- pechos senos lenceria encuera- semidesnud- pornograf- sensual-",
    "it": "nudo nuda nudi nuda svestit- spogliat- sesso sessual- erotic- seminud- pornograf- seno biancheria sensual-",
    "pt": "nu nua nus nuas pelado pelada pelados peladas despid- sexo sexual- erotic- seios pornograf- lingerie semin-",
    "nl": "naakt- bloot blote ontkleed- uitgekleed- seks seksueel seksuele erotisch- borsten ondergoed ontbloot-",
    "pl": "nagi naga nagie nagiego nagiej nagich naga nago gola goly gole rozebran- obnazon- seks seksown- erotyczn- "
          "bielizn- piersi nagosc roznegliz-",
    "tr": "ciplak ciplak- soyun- soyunuk seks seksi erotik- cinsel- mustehcen- icgiyim",
}  # fmt: skip

AMBIGUOUS = {
    "de": "kind kinder jungen junge tochter busen",
    "fr": "nu nue nus nues ado ados mineur gamin gamine gamins gamines",
    "es": "menor menores senos nene escolar infantil sexi nina ninas nino ninos chico chicos chica chicas",
    "it": "nudo nudi infante seno",
    "pt": "nu nua nus nuas menor menores pelado pelada semin- infantil",
    "nl": "kind jongen bloot",
    "pl": "naga nagi nago gola gole goly chlopak piersi",
    "tr": "kucuk ergen kiz kizi yavru oglan",
    "en": "tot tots",
}

PHRASES_MINOR = (
    "barely legal", "not legal", "jail bait", "under age", "below age", "not of age", "age of consent", "pre teen",
    "pre teens", "pre pubescent", "pre school", "high school", "middle school", "elementary school", "primary school",
    "grade school", "secondary school", "junior high", "nursery school", "sweet sixteen", "little one", "little ones",
    "pre pubertal", "menor de edad", "school age", "pre adolescent", "coming of age", "young looking", "cub scout",
)  # fmt: skip
PHRASES_SEXUAL = (
    "no clothes", "no clothing", "without clothes", "without clothing", "without any cloth", "without a stitch",
    "wearing nothing", "with nothing on", "nothing on but", "birthday suit", "bare breast", "bare bottom", "bare butt",
    "g string", "x rated", "rule 34", "adult content", "spread legs", "legs spread", "wet t shirt", "sous vetement",
    "sem roupa", "sin ropa", "senza vestiti", "sans vetement", "zonder kleren", "ohne kleid", "bez ubran", "r 18",
    "removing her cloth", "taking off her cloth", "taking off his cloth", "taking off their cloth",
)  # fmt: skip

# Where a word beside it gives it another sense.
HARMLESS = r"""
    naked\ (?:eyes?|moles?|mole\ rats?|neck|cakes?|flames?|truth|bikes?|ladies) |
    (?:same|opposite|single|other|mixed|both)\ sex(?:es)? |
    sex\ (?:ed|education|reveal|ratio|determination|chromosomes?|hormones?|assigned) |
    (?:baby|babies|child|infant|fetus|newborn)\ s?\ ?sex |
    sex\ of\ (?:the|a|an|her|his|their|my|your|our)\ (?:unborn\ )?(?:baby|babies|child|infant|fetus|newborn) |
    (?:sexual|sexuality|reproductive)\ (?:education|health) |
    breast\ (?:feeding|feeds?|fed|milk|pumps?|cancer|strokes?|pockets?|bone|feathers?|plate) |
    (?:chicken|turkey|duck|goose|red|robin|robins|orange)\ (?:s\ )?breasts? |
    (?:blue|great|coal|willow|marsh|crested|long\ tailed)\ tits? |
    pussy\ (?:cats?|willows?) | rape\ (?:fields?|flowers?|blossoms?|seeds?|oil) | nude\ (?:mouse|mice) |
    stripping\ (?:paint|wallpaper|wood|bark|cables?|wires?) | thong\ sandals? | cum\ laude |
    bottomless\ (?:pits?|cups?|coffee|wells?|brunch) |
    sultry\ (?:days?|summers?|afternoons?|evenings?|nights?|weather|air|heat) |
    topless\ (?:cars?|jeeps?|bus|buses|trees?) |
    baby\ (?:blue|pink|oil|powder|grand|boomers?|spinach|carrots?|greens?|corn) | kid\ (?:gloves?|leather|skin) |
    (?:asia|ursa|canis|leo)\ minor |
    minor\ (?:keys?|scales?|chords?|leagues?|planets?|details?|imperfections?|flaws?|edits?|changes?|damage|scratch\w*)
    """

OTHER_SCRIPTS_MINOR = (
    # ru, uk
    r"\b(?:ребен|ребят|детск|детей|дети\b|детьми|детям|детях|деточ|девоч|девчон|девуш|мальчик|мальчиш|малыш|младен"
    r"|подрост|несовершеннолет|малолет|школьни|дошкольни|пацан|тинейдж|дочь\b|дочк|дочер|новорожд|юнош"
    r"|дитин|дитя|діт|дівч|хлопч|хлопц|немовля|підліт|неповноліт|школяр|малюк|малеч)"
    # zh, ja
    r"|儿童|兒童|孩子|小孩|女孩|男孩|少女|少年|幼女|幼童|幼儿|幼兒|婴儿|嬰兒|宝宝|未成年|小学生|小學生|中学生|中學生|初中生|高中生|萝莉|蘿莉|正太|女童|男童"
    r"|子供|子ども|こども|児童|幼児|赤ちゃん|赤ん坊|女の子|男の子|女児|男児|高校生|女子高|園児|十代|ロリ|ショタ"
    # ko
    r"|아이(?!폰|스|돌|콘|디어|라이너|섀도)|어린이|아동|소녀|소년|미성년|유아|아기|초등학생|중학생|고등학생|여고생|십대|청소년|로리|여자애|남자애|꼬마"
    # ar
    r"|طفل|اطفال|فتاه|فتيات|بنات?\b|صبي|قاصر|رضيع|مراهق|تلميذ"
    # hi
    r"|बच्च|लड़क|किशोर|नाबालिग|शिशु|बालक|बालिका"
    r"|[👶🧒👧👦🍼]"
)
OTHER_SCRIPTS_SEXUAL = (
    r"\bгол(?:ый|ая|ое|ые|ого|ой|ому|ую|ым|ых|ыми|ом|ышом|ий|а|і|ого|их|им|ими)\b"
    r"|\b(?:обнаж|нагой|нагая|нагие|нагую|нагих|нагишом|раздет|разде|порн|эрот|секс|интимн|непристойн"
    r"|оголен|роздягн|роздяг|ерот|білизн|нижнее бел)"
    r"|裸|色情|性感|性爱|性愛|性交|脱衣|脫衣|情色|内衣|內衣|乳房|乳头|乳頭|没穿|沒穿|露点|露點"
    r"|ヌード|(?<!イ)エロ|セクシー|エッチ|性的|ポルノ|下着|おっぱい|脱い|はだか|ハダカ"
    r"|누드|알몸|나체|벌거벗|섹시|섹스|야한|포르노|에로|음란|속옷|성적인|성적으로|벗은|벗고"
    r"|عاري|عاريه|عاريات|عراه|عري\b|اباحي|جنسي\b|جنسيه\b|مثير"
    r"|नंग|नग्न|अश्लील|सेक्स|कामुक|निर्वस्त्र"
    r"|🔞"
)
OTHER_SCRIPTS_ALWAYS = r"炼铜|煉銅|ロリコン|ショタコン|儿童色情|兒童色情|児童ポルノ|педофил|педофіл"

OTHER_SCRIPTS_AGE = (
    r"(?<![\d一二三四五六七八九十])(?:1[0-7]|[1-9]|十[一二三四五六七]?|[一二三四五六七八九]) ?(?:岁|歲|歳|才|さい)"
    r"|(?<!\d)(?:1[0-7]|[1-9]) ?(?:살|세\b|лет|года?\b|річн|років|рок[иу]|سنه|سنوات|عام|साल|वर्ष)"
    r"|(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉|열|열한|열두|열세|열네|열다섯|열여섯|열일곱) ?살"
    r"|(?:двух|трех|четырех|пяти|шести|семи|восьми|девяти|десяти|одиннадцати) ?лет"
    r"|(?:две|три|четыр|пят|шест|сем)надцати ?лет"
)

SMALL = """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    """
ORDINAL = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth
    """
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
AGES = """
    yearold yearsold yrold yrsold monthold monthsold weekold weeksold dayold daysold yold under below grade aged
    """  # what ages are said with, when the blanks are gone
FILLERS = """
    a the of and with in little young small cute tiny very year years yr yo old olds aged age under real hot pic pics
    photo photos picture pictures image images video videos woman women art
    """  # what stands between the words of a name run together
APART = """
    a an the us in on no so to is it as at be or of by i we he she me my and for her his
    """  # what no half of a word that was cut in two is
WHOLE = """
    therapist therapists nineteen nineteens nineteenth brainchild brainchildren abreast asexual
    """  # words that only look as if they were made of others
