"""What payments and messages say: templates by subject, so that a search by meaning has something to tell apart."""

from __future__ import annotations

from dataclasses import dataclass

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

ITEMS = (
    "a laptop",
    "office chairs",
    "a used van",
    "kitchen fittings",
    "roof repairs",
    "two flight tickets",
    "concert tickets",
    "winter tyres",
    "a bicycle",
    "dental treatment",
    "a sofa",
    "garden tools",
    "a phone",
    "solar panels",
    "wedding catering",
    "a language course",
    "printing supplies",
    "a washing machine",
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A kind of payment.

    Attributes:
        transaction_type: What the payment's `transaction_type` says.
        source: Whose account it leaves, `person` or `company`; None for cash.
        target: Whose account it reaches; None for cash.
        low: The smallest amount, in cents.
        high: The largest amount, in cents.
        step: Amounts are multiples of this above `low`, in cents.
        weight: How often it happens.
        descriptions: What its description says.
        names_company: Whether the descriptions name the company that is a party.
    """

    transaction_type: str
    source: str | None
    target: str | None
    low: int
    high: int
    step: int
    weight: int
    descriptions: tuple[str, ...]
    names_company: bool = False


_P, _C = "person", "company"

FLOWS = (
    Flow(
        "card payment",
        _P,
        _C,
        150,
        40_000,
        1,
        28,
        (
            "Card purchase at {company}",
            "Contactless payment {company}",
            "Online order {number} for {item} from {company}",
            "Card payment for {item} at {company}",
            "Monthly subscription {company}",
        ),
        names_company=True,
    ),
    Flow(
        "transfer",
        _P,
        _P,
        500,
        150_000,
        100,
        14,
        (
            "Thanks for dinner last night",
            "My share of the holiday flat in {month}",
            "Birthday present",
            "Paying you back for {item}",
            "Pocket money {month}",
            "Private loan repayment, instalment {number}",
            "Sale of {item}, as agreed",
        ),
    ),
    Flow(
        "salary",
        _C,
        _P,
        165_000,
        820_000,
        1,
        10,
        ("Salary {month} {company}", "Wages {month}, personnel number {number}, {company}", "Annual bonus {company}"),
        names_company=True,
    ),
    Flow(
        "direct debit",
        _P,
        _C,
        900,
        32_000,
        1,
        14,
        (
            "Electricity and gas bill {month}, contract {number}",
            "Mobile phone and internet bill {month}",
            "Car insurance premium, policy {number}",
            "Health insurance contribution {month}",
            "Gym membership fee {month}",
            "Household contents insurance, policy {number}",
        ),
    ),
    Flow(
        "standing order",
        _P,
        _P,
        45_000,
        210_000,
        1_000,
        6,
        ("Rent {month} including utilities", "Rent for the apartment, {month}", "Child maintenance {month}"),
    ),
    Flow(
        "standing order",
        _P,
        _C,
        60_000,
        260_000,
        100,
        4,
        ("Mortgage instalment {month}, loan {number}", "Home loan repayment {month}", "Car leasing rate {month}"),
    ),
    Flow(
        "cash deposit",
        None,
        _P,
        5_000,
        300_000,
        1_000,
        3,
        ("Cash deposit at the counter", "Cash deposit at a machine", "Deposit of coins and notes, club collection"),
    ),
    Flow(
        "cash deposit",
        None,
        _C,
        20_000,
        800_000,
        500,
        2,
        ("Daily takings paid in", "Shop takings {month}, night safe", "Restaurant cash takings"),
    ),
    Flow(
        "cash withdrawal",
        _P,
        None,
        1_000,
        100_000,
        1_000,
        6,
        ("Cash withdrawal at a machine", "Cash withdrawal abroad", "Cash withdrawal at the counter"),
    ),
    Flow(
        "wire",
        _C,
        _C,
        40_000,
        9_000_000,
        1,
        9,
        (
            "Invoice {number} {company}",
            "Payment for {item}, purchase order {number}",
            "Freight and customs charges, shipment {number}",
            "Consulting fees {month}, {company}",
            "Rent of office space {month}",
            "Dividend distribution to {company}",
            "Intercompany loan to {company}",
        ),
        names_company=True,
    ),
    Flow(
        "transfer",
        _C,
        _P,
        1_000,
        60_000,
        1,
        3,
        (
            "Refund for returned goods, order {number}",
            "Travel expenses reimbursement {month}",
            "Insurance claim {number} settled",
        ),
    ),
    Flow(
        "transfer",
        _P,
        _C,
        2_000,
        400_000,
        100,
        4,
        (
            "Tax advance payment {month}",
            "Charity donation for earthquake relief",
            "Purchase of shares, order {number}",
            "Tuition fees for the {month} term",
        ),
    ),
)
"""The ordinary payments."""

PATTERN_DESCRIPTIONS = {
    "cash": ("Cash deposit at a machine", "Cash deposit at the counter", "Cash deposit, own savings"),
    "moved_on": ("Purchase of a vehicle abroad", "Investment, contract {number}", "Transfer of own funds"),
    "ring": ("Consulting services, invoice {number}", "Advance on goods, contract {number}", "Loan {number}"),
    "mule": ("As agreed", "Forwarding, job {number}", "Crypto purchase", "Loan to a friend", "Commission deducted"),
}
"""What the payments of planted patterns say."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a message can be about.

    Attributes:
        name: The name of the topic.
        weight: How often it comes up.
        channels: How such messages are sent.
        subjects: The subject lines.
        sentences: The body, sentence by sentence, with the choices for each.
        amount_unit: Amounts in it are 12 to 990 times this.
        language: ISO 639-1.
    """

    name: str
    weight: int
    channels: tuple[str, ...]
    subjects: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]
    amount_unit: int = 1
    language: str = "en"


_WRITTEN = ("email", "email", "secure message", "letter")
_QUICK = ("chat", "sms", "phone call", "email")

OPENINGS = {
    "en": ("Dear {reader},", "Hello {reader},", "Hi {reader},", "Good morning {reader},"),
    "de": ("Guten Tag {reader},", "Hallo {reader},"),
    "fr": ("Bonjour {reader},", "Chère cliente, cher client {reader},"),
}

CLOSINGS = {
    "en": ("Kind regards, {writer}", "Thank you, {writer}", "Best wishes, {writer}", "Yours sincerely, {writer}"),
    "de": ("Mit freundlichen Grüßen, {writer}", "Viele Grüße, {writer}"),
    "fr": ("Cordialement, {writer}", "Bien à vous, {writer}"),
}

TOPICS = (
    Topic(
        "wire to shell company",
        4,
        _WRITTEN,
        ("Wire transfer to {company}", "Urgent payment to our offshore partner", "Funds for {company}"),
        (
            (
                "please wire {amount} to {company} before the end of the week.",
                "we need an international transfer of {amount} to the account of {company}.",
                "the beneficiary of the {amount} is {company}, registered offshore.",
            ),
            (
                "The company has no staff and no office, it only holds the money for us.",
                "Please do not mention the beneficial owner in the payment details.",
                "It is a holding company; its directors are nominees.",
                "Use the purpose consulting services, invoice {number}.",
            ),
            ("An invoice will follow later.", "Compliance need not be involved.", "Confirm when it is done."),
        ),
        amount_unit=500,
    ),
    Topic(
        "mortgage",
        8,
        _WRITTEN,
        ("Mortgage application {number}", "Home loan for a house in {city}", "Your mortgage interest rate"),
        (
            (
                "we would like to buy a house in {city} and need a mortgage of {amount}.",
                "the fixed interest rate of our home loan ends in {month}.",
                "thank you for the valuation of the apartment in {city}.",
            ),
            (
                "Could you send an offer with a term of fifteen or twenty years?",
                "We can bring in a quarter of the purchase price ourselves.",
                "Is an extra repayment possible without a penalty?",
            ),
            ("The land register extract is attached.", "Salary statements of both of us are attached."),
        ),
        amount_unit=1000,
    ),
    Topic(
        "salary",
        7,
        _QUICK,
        ("Salary for {month}", "Wrong bank details for payroll", "Payslip {month}"),
        (
            (
                "my salary for {month} has not arrived yet.",
                "please pay my wages to the new account ending {digits} from {month} on.",
                "the payslip for {month} shows {amount} less than agreed.",
            ),
            (
                "The payroll department of {company} says that it was sent on the 25th.",
                "Could you check whether the overtime was counted?",
                "The bonus seems to be missing.",
            ),
        ),
        amount_unit=2,
    ),
    Topic(
        "card dispute",
        9,
        _QUICK,
        ("Disputed card payment", "I did not make this card purchase", "Chargeback request {number}"),
        (
            (
                "there is a card charge of {amount} from {company} that I do not recognise.",
                "my card ending {digits} was charged twice for {item}.",
                "I never received {item} and the shop does not answer.",
            ),
            (
                "I was not in {city} on that day.",
                "Please reverse the payment and refund me.",
                "I have filed a dispute and attach the order confirmation.",
            ),
            ("Please block the card and send a new one.", "How long does a chargeback take?"),
        ),
    ),
    Topic(
        "stolen card",
        5,
        _QUICK,
        ("Card lost in {city}", "Stolen wallet", "Please block my card"),
        (
            (
                "my wallet was stolen in {city}.",
                "I lost my debit card ending {digits}.",
                "my card is gone since {month}.",
            ),
            (
                "Please block it at once and order a replacement.",
                "Somebody has already withdrawn {amount} at a cash machine.",
                "I have reported the theft to the police.",
            ),
        ),
    ),
    Topic(
        "cash deposits",
        3,
        _QUICK,
        ("Question about cash deposits", "Paying in the takings", "Counting coins"),
        (
            (
                "we pay in the takings of our shop every evening, about {amount}.",
                "I sold {item} for cash and would like to deposit {amount}.",
                "the deposit machine in {city} kept my notes.",
            ),
            (
                "Which proof of origin do you need for larger cash amounts?",
                "Is there a fee for counting coins?",
                "The receipt shows a smaller sum than I paid in.",
            ),
        ),
        amount_unit=10,
    ),
    Topic(
        "phishing",
        5,
        _WRITTEN,
        ("Suspicious text message", "Is this mail from {bank}?", "Phishing attempt"),
        (
            (
                "I received a message that asks me to confirm my password under a link.",
                "a caller said he was from {bank} and asked for the code on my phone.",
                "somebody logged in to my online banking from another country.",
            ),
            (
                "I entered my access data before I noticed the strange address.",
                "I did not click on anything.",
                "A transfer of {amount} is pending that I did not make.",
            ),
            ("Please lock my online access.", "Can the transfer still be recalled?"),
        ),
    ),
    Topic(
        "investment",
        6,
        _WRITTEN,
        ("Savings plan with index funds", "Portfolio review {month}", "Investing {amount}"),
        (
            (
                "I would like to invest {amount} for at least ten years.",
                "our quarterly review of your securities portfolio is due in {month}.",
                "what do you think of government bonds at the moment?",
            ),
            (
                "I prefer broad equity funds with low costs.",
                "The share of technology stocks has become too large.",
                "Part of it should remain available as a fixed-term deposit.",
            ),
        ),
        amount_unit=100,
    ),
    Topic(
        "business loan",
        5,
        _WRITTEN,
        ("Credit line for {company}", "Loan for new machines", "Balance sheet of {company}"),
        (
            (
                "{company} needs a working capital line of {amount}.",
                "we plan to buy machinery and ask for a loan over seven years.",
                "the annual accounts of {company} are ready.",
            ),
            (
                "Orders have grown by a third, but customers pay late.",
                "As security we offer the warehouse in {city}.",
                "The covenants of the present loan leave little room.",
            ),
        ),
        amount_unit=1000,
    ),
    Topic(
        "invoice",
        8,
        _WRITTEN,
        ("Invoice {number}", "Overdue payment of {company}", "Reminder: invoice {number}"),
        (
            (
                "invoice {number} over {amount} is overdue since {month}.",
                "we have delivered {item} and enclose our invoice {number}.",
                "the bank details on invoice {number} have changed.",
            ),
            (
                "Please pay within fourteen days.",
                "We will grant two percent discount for early payment.",
                "Please verify the new account by telephone before paying, there have been fraud attempts.",
            ),
        ),
        amount_unit=20,
    ),
    Topic(
        "know your customer",
        6,
        _WRITTEN,
        ("Documents for your customer file", "Proof of address needed", "Review of {company}"),
        (
            (
                "we have to renew the identification of our customers.",
                "please tell us who the beneficial owners of {company} are.",
                "your passport copy in our files has expired.",
            ),
            (
                "We need a utility bill not older than three months.",
                "Please explain the origin of the {amount} received in {month}.",
                "Please fill in the tax residency form as well.",
            ),
        ),
        amount_unit=200,
    ),
    Topic(
        "account opening",
        6,
        _QUICK,
        ("Opening a savings account", "Account for our daughter", "Joint account"),
        (
            (
                "we would like to open a joint account.",
                "which account do you recommend for a student?",
                "{company} wants to open a business account with you.",
            ),
            (
                "Can we identify ourselves by video?",
                "Is there a monthly fee and does it come with a credit card?",
                "We move to {city} in {month}.",
            ),
        ),
    ),
    Topic(
        "insurance claim",
        4,
        _WRITTEN,
        ("Water damage in {city}", "Claim {number}", "Car accident in {month}"),
        (
            (
                "a burst pipe has damaged the kitchen.",
                "I had a car accident near {city}.",
                "my claim {number} has not been settled yet.",
            ),
            ("The repair costs {amount} by the estimate.", "Photos are attached.", "The other driver was at fault."),
        ),
        amount_unit=10,
    ),
    Topic(
        "inheritance",
        3,
        ("letter", "email", "phone call"),
        ("Estate of my father", "Power of attorney", "Death of an account holder"),
        (
            ("my father died in {month} and had an account with {bank}.", "I am the executor of the estate."),
            (
                "The certificate of inheritance is attached.",
                "Please divide the balance of {amount} between the heirs.",
                "Which papers do you need to close the accounts?",
            ),
        ),
        amount_unit=200,
    ),
    Topic(
        "crypto",
        4,
        _QUICK,
        ("Transfer to a crypto exchange", "Bitcoin profits", "Blocked payment to an exchange"),
        (
            (
                "my transfer of {amount} to a crypto exchange was stopped.",
                "I sold bitcoin and expect {amount} on my account.",
                "a trading platform promised me high returns and now pays nothing out.",
            ),
            ("I bought the coins in {month}.", "They demand another fee first.", "Do I have to declare it for tax?"),
        ),
        amount_unit=20,
    ),
    Topic(
        "meeting",
        7,
        _QUICK,
        ("Appointment in {city}", "Lunch on Thursday?", "Call in {month}"),
        (
            (
                "shall we meet in {city} next week?",
                "can we move our appointment?",
                "are you free for lunch on Thursday?",
            ),
            ("I would bring the papers along.", "Tuesday morning suits me best.", "A video call would do as well."),
        ),
    ),
    Topic(
        "trade finance",
        3,
        _WRITTEN,
        ("Letter of credit {number}", "Shipment to {city}", "Bill of lading"),
        (
            (
                "the letter of credit over {amount} for {company} needs an amendment.",
                "the container with {item} leaves the port in {month}.",
                "the price on the customs papers differs from the contract.",
            ),
            (
                "The bill of lading and the certificate of origin are missing.",
                "Please extend the latest date of shipment by two weeks.",
                "The goods were invoiced at five times their market value.",
            ),
        ),
        amount_unit=1000,
    ),
    Topic(
        "fees complaint",
        5,
        _QUICK,
        ("Complaint about fees", "Overdraft interest", "Why was I charged {amount}?"),
        (
            (
                "I was charged {amount} in account fees without notice.",
                "the overdraft interest in {month} is far too high.",
                "the foreign exchange rate of my payment in {city} was poor.",
            ),
            ("Please refund it.", "Otherwise I will change to another bank.", "I have been a customer for years."),
        ),
    ),
    Topic(
        "Hausfinanzierung",
        4,
        _WRITTEN,
        ("Baufinanzierung in {city}", "Anschlussfinanzierung", "Darlehen {number}"),
        (
            (
                "wir möchten ein Haus in {city} kaufen und brauchen ein Darlehen über {amount}.",
                "die Zinsbindung unseres Kredits läuft bald aus.",
            ),
            ("Können Sie uns ein Angebot machen?", "Gehaltsnachweise und Grundbuchauszug liegen bei."),
        ),
        amount_unit=1000,
        language="de",
    ),
    Topic(
        "carte bancaire",
        3,
        _QUICK,
        ("Opération contestée", "Carte bancaire perdue à {city}", "Opposition sur ma carte"),
        (
            (
                "je ne reconnais pas un paiement par carte de {amount}.",
                "j'ai perdu ma carte se terminant par {digits} à {city}.",
            ),
            ("Merci de la bloquer et de me rembourser.", "J'ai déposé plainte auprès de la police."),
        ),
        language="fr",
    ),
)
"""The ordinary matters of a bank and its customers."""

PATTERN_TOPICS = {
    "structuring": Topic(
        "structuring",
        0,
        ("chat", "sms"),
        ("The cash", "About tomorrow's deposits", "Keep it small"),
        (
            (
                "split the cash into deposits below ten thousand so that nothing gets reported.",
                "never pay in more than nine and a half thousand at once, use several machines.",
                "go to a different branch each time and stay under the reporting limit.",
            ),
            (
                "When all of it is in, move it on to the other account.",
                "Say it is from your savings if the cashier asks.",
                "Delete this message.",
            ),
        ),
    ),
    "ring": Topic(
        "ring",
        0,
        ("email", "chat"),
        ("Round trip", "Invoices for the quarter", "Circular payments"),
        (
            (
                "the money goes round through our companies and comes back by the end of the week.",
                "each company invoices the next one for consulting, and the last one pays the first.",
            ),
            (
                "The turnover will look good in the accounts.",
                "There are no services behind the invoices, so keep the texts general.",
            ),
        ),
    ),
    "mule_chain": Topic(
        "mule_chain",
        0,
        ("chat", "sms", "email"),
        ("Your commission", "Easy work from home", "Forward the money today"),
        (
            (
                "you will receive money on your account today; keep five percent and forward the rest at once.",
                "the job is simple: pass the payment on to the next account within hours.",
            ),
            (
                "If the bank calls, say that it is a loan to a friend.",
                "It must not stay overnight, or the account will be frozen.",
            ),
        ),
    ),
}
"""What the persons behind planted patterns write, by the pattern's kind."""
