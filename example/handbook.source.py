"""Writes the binary files of the handbook. Their text lives here, so that a change can be read in a diff.

    python3 -m pip install python-docx python-pptx reportlab matplotlib && python3 example/handbook.source.py
"""
import io, os

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from docx import Document
from docx.shared import Cm
from pptx import Presentation
from pptx.util import Cm as PCm
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import cm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.platypus import (BaseDocTemplate, Frame, Image, ListFlowable, PageTemplate, Paragraph,
                                SimpleDocTemplate, Spacer, Table, TableStyle)

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "handbook")
styles = getSampleStyleSheet()
grid = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("BACKGROUND", (0, 0), (-1, 0), colors.lightgrey),
                   ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"), ("FONTSIZE", (0, 0), (-1, -1), 9)])


def path(name):
    return os.path.join(here, name)


def chart(title, labels, values):
    fig, ax = plt.subplots(figsize=(4, 2.2), dpi=110)
    ax.bar(labels, values, color="#2b6f8f")
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=8)
    out = io.BytesIO()
    fig.tight_layout()
    fig.savefig(out, format="png", metadata={"Software": None})
    plt.close(fig)
    out.seek(0)
    return out


def head_and_foot(text):
    def draw(canvas, doc):
        canvas.setFont("Helvetica", 8)
        canvas.drawString(2 * cm, A4[1] - 1.2 * cm, text)
        canvas.drawRightString(A4[0] - 2 * cm, 1.2 * cm, f"Page {doc.page}")
    return draw


def travel():
    h1, h2, p = styles["Heading1"], styles["Heading2"], styles["BodyText"]
    rates = [["City", "Hotel per night (EUR)", "Meals per day (EUR)"],
             ["Bergen", "165", "62"], ["Vigo", "110", "48"], ["Qingdao", "95", "41"], ["Tokyo", "190", "78"],
             ["Houston", "175", "66"], ["Elsewhere", "130", "50"]]
    story = [
        Paragraph("Travel and expenses", h1),
        Paragraph("Travel is planned by the traveller and approved by the team lead before anything is booked. "
                  "Trips of more than five working days also need the approval of the head of the department.", p),
        Paragraph("Getting there", h2),
        Paragraph("Below 700 kilometres we take the train. Flights are booked in economy class; on flights of more than "
                  "nine hours premium economy is allowed. Taxis are paid when public transport would take more than an hour longer, "
                  "or between 22:00 and 06:00.", p),
        Paragraph("Limits by city", h2), Table(rates, colWidths=[5 * cm, 5 * cm, 5 * cm], style=grid), Spacer(1, 10),
        Paragraph("Amounts above the limit are paid by the traveller unless the team lead agreed in writing before the trip. "
                  "Breakfast that the hotel includes lowers the meal allowance by one fifth.", p),
        Paragraph("Expense reports", h2),
        Paragraph("An expense report is handed in within 30 days after the trip, with a receipt for every amount above 25 euros. "
                  "Reports that come later are paid only if the finance director, Odile Fabre, agrees. Money is paid out with the next salary.", p),
        Paragraph("What is not paid", h2),
        ListFlowable([Paragraph(x, p) for x in [
            "Minibar, laundry on trips of less than five nights, and fines of any kind.",
            "Seat reservations of more than 30 euros.",
            "Upgrades, also when they were offered at the gate."]], bulletType="bullet"),
        Spacer(1, 10), Image(chart("Trips per month, last year", ["Jan", "Apr", "Jul", "Oct"], [31, 44, 18, 52]), 10 * cm, 5.5 * cm),
        Paragraph("Figure 1: Trips per month. July is quiet because of the summer recess.", p),
    ]
    draw = head_and_foot("Halden Bay Instruments: travel and expenses")
    SimpleDocTemplate(path("travel-and-expenses.pdf"), pagesize=A4, title="Travel and expenses", author="Halden Bay Instruments",
                      invariant=1).build(story, onFirstPage=draw, onLaterPages=draw)


def catalogue():
    h1, h2, p = styles["Heading1"], styles["Heading2"], styles["BodyText"]
    width = (A4[0] - 5 * cm) / 2
    frames = [Frame(2 * cm, 2 * cm, width, A4[1] - 4.4 * cm), Frame(3 * cm + width, 2 * cm, width, A4[1] - 4.4 * cm)]
    doc = BaseDocTemplate(path("product-catalogue.pdf"), pagesize=A4, title="Product catalogue", author="Halden Bay Instruments", invariant=1)
    doc.addPageTemplates(PageTemplate(frames=frames, onPage=head_and_foot("Halden Bay Instruments: product catalogue")))
    story = [Paragraph("Product catalogue", h1),
             Paragraph("Our instruments are sold as complete systems: hull, sensors, mooring and three years of data service.", p)]
    for name, text in [
        ("Skua 300", "The Skua 300 is an open-water buoy of 2.4 metres in diameter. It measures wave spectra, wind, air pressure and "
                     "the water column down to 300 metres, and reports every 20 minutes. Its depth rating is 300 metres and it withstands waves of 22 metres."),
        ("Skua 900", "The Skua 900 has the hull of the Skua 300 and an acoustic modem for instruments on the sea floor. Its depth rating is "
                     "900 metres. The modem reaches 6 kilometres in calm water and about 2 kilometres in a storm."),
        ("Petrel", "The Petrel is the small coastal buoy: 1.2 metres in diameter, 85 kilograms, laid out by two people from a dinghy. "
                   "It reports every 60 minutes and works for 21 days without sunlight."),
        ("Tern logger", "The Tern is a logger without a hull that clamps to piers and cages. It stores 18 months of measurements at one sample "
                        "a minute and is read out over a magnetic connector."),
    ]:
        story += [Paragraph(name, h2), Paragraph(text, p)]
    prices = [["Product", "Price (EUR)", "Delivery"], ["Skua 300", "148,000", "14 weeks"], ["Skua 900", "212,000", "20 weeks"],
              ["Petrel", "36,500", "6 weeks"], ["Tern logger", "4,900", "2 weeks"]]
    story += [Paragraph("Prices and delivery", h2), Table(prices, colWidths=[2.7 * cm, 2.4 * cm, 2.2 * cm], style=grid), Spacer(1, 8),
              Paragraph("Prices hold until the end of the year and do not include the mooring. Research institutes receive a discount of 12 percent.", p),
              Paragraph("Service", h2),
              Paragraph("Repairs are done in Vigo. The turnaround for a sensor is 15 working days; a loan sensor is sent on request within three days.", p)]
    doc.build(story)


def safety_zh():
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    p = ParagraphStyle("p", fontName="STSong-Light", fontSize=11, leading=18, wordWrap="CJK", spaceAfter=6)
    h1 = ParagraphStyle("h1", parent=p, fontSize=20, leading=28, spaceAfter=10)
    h2 = ParagraphStyle("h2", parent=p, fontSize=14, leading=22, spaceBefore=8)
    style = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("FONTNAME", (0, 0), (-1, -1), "STSong-Light")])
    story = [
        Paragraph("工厂安全须知", h1),
        Paragraph("本须知适用于卑尔根和维戈的所有车间，也适用于来访的客人。安全值班电话为 1122，昼夜有人接听。", p),
        Paragraph("测试水池", h2),
        Paragraph("进入测试水池区域之前，必须参加安全培训，并且穿好救生衣。任何人不得单独在水池边工作；夜间测试至少要有三个人在场。", p),
        Paragraph("起重设备", h2),
        Paragraph("吊车的最大起重量为两吨。起吊浮标时，所有人员必须站在黄线以外。吊索每六个月检查一次，检查记录保存五年。", p),
        Paragraph("化学品", h2),
        Table([["化学品", "存放地点", "防护用品"], ["环氧树脂", "二号柜", "手套、护目镜"], ["防污漆", "室外仓库", "防毒面具、手套"], ["校准盐溶液", "实验室冷柜", "护目镜"]],
              style=style), Spacer(1, 8),
        Paragraph("事故报告", h2),
        Paragraph("任何事故，无论大小，都要在 24 小时之内填写事故报告。未造成伤害的险情也要报告，公司不会因此处罚任何人。", p),
    ]
    SimpleDocTemplate(path("安全须知.pdf"), pagesize=A4, title="工厂安全须知", invariant=1).build(story)


def rows(table, data):
    for r, row in enumerate(data):
        for c, text in enumerate(row):
            table.cell(r, c).text = text


def leave():
    d = Document()
    d.core_properties.title = "Leave policy"
    d.add_heading("Leave policy", 0)
    d.add_paragraph("This policy holds for all employees with a permanent or fixed-term contract. Local law comes first where it gives more.")
    d.add_heading("Annual leave", 1)
    data = [["Years of service", "Days of annual leave"], ["0 to 4", "25"], ["5 to 9", "28"], ["10 and more", "31"]]
    rows(d.add_table(rows=4, cols=2, style="Table Grid"), data)
    d.add_paragraph("Up to seven days may be carried over and are taken by 31 March of the next year. Leave is asked for in the people portal:")
    for text in ["up to three days: two days ahead;", "up to two weeks: four weeks ahead;", "more than two weeks: three months ahead."]:
        d.add_paragraph(text, style="List Bullet")
    d.add_heading("Sick leave", 1)
    d.add_paragraph("Call your team lead before 09:30 on the first day. A doctor's note is needed from the fourth day on. Full pay continues for 16 weeks.")
    d.add_heading("Parental leave", 1)
    d.add_paragraph("Each parent has 20 weeks of paid parental leave, to be taken within 18 months after birth or adoption. It can be split into at most three parts.")
    d.add_heading("Other leave", 1)
    for text in ["Moving house: one day a year.", "Own wedding: two days.", "Death of a close relative: five days.", "Voluntary lifeboat service: up to ten days a year, paid."]:
        d.add_paragraph(text, style="List Number")
    d.add_picture(chart("Sick days per person", ["2021", "2022", "2023", "2024"], [6.1, 7.4, 5.8, 5.2]), width=Cm(10))
    d.add_paragraph("Sick days per person and year.", style="Caption")
    d.save(path("leave-policy.docx"))


def office_zh():
    d = Document()
    d.core_properties.title = "青岛办事处制度"
    d.add_heading("青岛办事处制度", 0)
    d.add_heading("工作时间", 1)
    d.add_paragraph("青岛办事处的核心工作时间为上午九点半到下午三点。每周工作 37.5 小时，午休一小时不计入工作时间。")
    d.add_heading("加班", 1)
    d.add_paragraph("加班须经部门经理事先批准。加班费按下表计算，也可以在三个月之内换成调休。")
    data = [["加班时间", "加班费"], ["工作日", "小时工资的 1.5 倍"], ["休息日", "小时工资的两倍"], ["法定节假日", "小时工资的三倍"]]
    rows(d.add_table(rows=4, cols=2, style="Table Grid"), data)
    d.add_heading("请假", 1)
    d.add_paragraph("年假为 15 天，工龄满五年增加到 18 天。病假需在当天上午九点半之前通知主管，连续超过三天须提交医院证明。")
    d.add_heading("出差", 1)
    d.add_paragraph("国内出差的住宿标准为每晚 450 元，餐费补贴为每天 120 元。报销单须在出差结束后 30 天之内提交给财务部的王丽华。")
    d.save(path("青岛办事处制度.docx"))


def onboarding():
    deck = Presentation()
    s = deck.slides.add_slide(deck.slide_layouts[0])
    s.shapes.title.text, s.placeholders[1].text = "Onboarding", "Halden Bay Instruments, for new colleagues"
    s = deck.slides.add_slide(deck.slide_layouts[1])
    s.shapes.title.text = "The first ninety days"
    body = s.placeholders[1].text_frame
    body.text = "Week 1: safety training and laptop"
    for text, level in [("Week 2: a buoy from hull to data", 0), ("one day in assembly", 1), ("one day in calibration", 1),
                        ("Day 30: first talk with your team lead", 0), ("Day 90: end of the trial period", 0)]:
        par = body.add_paragraph()
        par.text, par.level = text, level
    s.notes_slide.notes_text_frame.text = "Remind everyone that the trial period can be extended once, by at most 60 days."
    s = deck.slides.add_slide(deck.slide_layouts[5])
    s.shapes.title.text = "Teams and who leads them"
    data = [["Team", "Lead", "Site"], ["Calibration", "Marta Lindqvist", "Vigo"], ["Firmware", "Kwame Boateng", "Bergen"],
            ["Operations", "Yusuf Demir", "Bergen"], ["East Asia service", "Chen Yutong", "Qingdao"]]
    table = s.shapes.add_table(5, 3, PCm(2), PCm(5), PCm(21), PCm(7)).table
    rows(table, data)
    s = deck.slides.add_slide(deck.slide_layouts[5])
    s.shapes.title.text = "How we grew"
    s.shapes.add_picture(chart("People at Halden Bay", ["2009", "2014", "2019", "2024"], [4, 38, 120, 214]), PCm(4), PCm(5), width=PCm(16))
    deck.save(path("onboarding.pptx"))


for make in (travel, catalogue, safety_zh, leave, office_zh, onboarding):
    make()
