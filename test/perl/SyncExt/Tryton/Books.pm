# The books of a new Tryton: what an accountant does before the first invoice. Methods of SyncExt::Tryton.
#
#   $erp->provision;                         # currencies, a company, accounts, years; start() has done it
#   $erp->add_company($name, $currency);     # another company
#   $erp->allow_cancelling; $erp->number_by_month($year);
package SyncExt::Tryton::Books;

use strict;
use warnings;

use JSON::PP;

# code => [decimal digits, ISO number, name, symbol, units of it per euro]
my %CURRENCY = (
	BHD => [ 3, '048', 'Bahraini Dinar', 'BD', '0.41' ],
	EUR => [ 2, '978', 'Euro',           '€',  '1' ],
	GBP => [ 2, '826', 'Pound Sterling', '£',  '0.85' ],
	JPY => [ 0, '392', 'Yen',            '¥',  '160' ],
	USD => [ 2, '840', 'US Dollar',      '$',  '1.1' ],
);

my %COUNTRY = (
	AT => 'Austria', AU => 'Australia', BE => 'Belgium', BH => 'Bahrain', CA => 'Canada',
	CH => 'Switzerland', DE => 'Germany', ES => 'Spain', FR => 'France',
	GB => 'United Kingdom', IE => 'Ireland', IT => 'Italy', JP => 'Japan',
	NL => 'Netherlands', NZ => 'New Zealand', SE => 'Sweden', US => 'United States',
);

sub provision
{
	my ($self) = @_;
	my %id = (user => 1, journal => undef);

	$self->{ids} = \%id;
	$self->_make_currencies;
	$self->_make_company('Demo Company', $self->{currency});
	$self->_make_accounts;
	$self->_make_years;

	my $term = sub {
		my ($name, @delta) = @_;
		return $self->model('account.invoice.payment_term.create',
			[ { name => $name, lines => [ [ 'create', [ { type => 'remainder', @delta } ] ] ] } ])->[0];
	};
	$id{payment_term}    = $term->('Immediate');
	$id{payment_term_30} =
	  $term->('30 days', relativedeltas => [ [ 'create', [ { days => 30 } ] ] ]);
	$id{journal} = $self->model('account.journal.search', [ [ 'type', '=', 'revenue' ] ], 0, 1, undef)->[0];
	return \%id;
}

# Another company in the same database, with accounts, years and numbers of its own; parties are everybody's. Returns
# its ids, which differ from ids() in company, account and fiscalyear. The user then sees the records of all companies,
# whatever the context says, so requests have to name theirs in the domain.
sub add_company
{
	my ($self, $name, $currency) = @_;
	my $first = $self->{ids}{company};
	local $self->{ids} = { %{ $self->{ids} }, account => {}, fiscalyear => {} };

	$self->_make_company($name, $currency);
	$self->_make_accounts;
	$self->_make_years;
	$self->call('model.res.user.write', [ $self->{ids}{user} ], { company => $first, company_filter => 'all' }, {});
	return $self->{ids};
}

# Has posted customer invoices be cancelled by a reversing move, which Tryton by itself allows for suppliers' only.
sub allow_cancelling
{
	my ($self) = @_;
	$self->model('company.company.write', [ $self->{ids}{company} ], { cancel_invoice_out => JSON::PP::true });
	return;
}

# Numbers of invoices for each month of a year instead of one sequence for all of it: Tryton posts no
# invoice that is older than one of the same sequence.
sub number_by_month
{
	my ($self, $year) = @_;
	my $id = $self->{ids};
	my $periods = $self->model('account.period.search_read',
		[ [ 'fiscalyear', '=', $id->{fiscalyear}{$year} ], [ 'type', '=', 'standard' ] ], 0, undef, [ [ 'start_date', 'ASC' ] ], ['name']);
	my $type = $self->model('ir.sequence.type.search', [ [ 'name', '=', 'Invoice' ] ], 0, 1, undef)->[0];
	my $all = $self->model('account.fiscalyear.invoice_sequence.search', [ [ 'fiscalyear', '=', $id->{fiscalyear}{$year} ] ], 0, undef, undef);
	my @sequences;

	# The first that fits counts.
	$self->model('account.fiscalyear.invoice_sequence.write', $all, { sequence => 1000 });
	foreach my $i (0 .. $#$periods)
	{
		my $sequence = $self->model('ir.sequence.strict.create',
			[ { name => "Invoices $periods->[$i]{name}", sequence_type => $type, company => $id->{company}, prefix => "$periods->[$i]{name}/", padding => 5 } ])->[0];
		my %numbered = map { $_ => $sequence } qw(out_invoice_sequence in_invoice_sequence out_credit_note_sequence in_credit_note_sequence);
		push @sequences, { company => $id->{company}, fiscalyear => $id->{fiscalyear}{$year}, period => $periods->[$i]{id}, sequence => $i, %numbered };
	}
	return $self->model('account.fiscalyear.invoice_sequence.create', \@sequences);
}

sub _make_currencies
{
	my ($self) = @_;
	my @code = sort keys %CURRENCY;
	my @value;

	for my $code (@code)
	{
		my ($digits, $number, $name, $symbol, $rate) = @{ $CURRENCY{$code} };
		my $rounding = $digits ? '0.' . '0' x ($digits - 1) . '1' : '1';
		push @value, {
			code => $code, numeric_code => $number, name => $name, symbol => _text($symbol),
			digits => $digits, rounding => $self->decimal($rounding),
			rates => [ [ 'create', [ { date => $self->date('2000-01-01'), rate => $self->decimal($rate) } ] ] ]
		};
	}
	my $made = $self->call('model.currency.currency.create', \@value, {});
	@{ $self->{ids}{currency} }{@code} = @$made;

	@code = sort keys %COUNTRY;
	$made = $self->call('model.country.country.create',
		[ map { { code => $_, name => $COUNTRY{$_} } } @code ], {});
	@{ $self->{ids}{country} }{@code} = @$made;
}

sub _make_company
{
	my ($self, $name, $currency) = @_;
	my $id = $self->{ids};

	my $party = $self->call('model.party.party.create',
		[ { name => $name, code => $id->{company} ? "COMPANY $name" : 'COMPANY', addresses => [ [ 'create', [ {} ] ] ] } ], {})->[0];
	$id->{company} = $self->call('model.company.company.create',
		[ { party => $party, currency => $id->{currency}{$currency} } ], {})->[0];
	$self->call('model.res.user.write', [ $id->{user} ],
		{ companies => [ [ 'add', [ $id->{company} ] ] ], company => $id->{company} }, {});
}

# The wizard that the client's menu would start, state by state.
sub _make_accounts
{
	my ($self) = @_;
	my $id = $self->{ids};

	my $template = $self->model('account.account.template.search', [ [ 'parent', '=', undef ] ], 0, 1, undef)->[0];
	my $wizard  = 'wizard.account.create_chart';
	my $session = $self->call("$wizard.create", $self->context)->[0];
	my $step    = sub { $self->call("$wizard.execute", $session, $_[1], $_[0], $self->context) };

	$step->('account', {});
	$step->('create_account', { account => { account_template => $template, company => $id->{company} } });
	for my $kind (qw(receivable payable revenue expense))
	{
		$id->{account}{$kind} = $self->model('account.account.search',
			[ [ "type.$kind", '=', JSON::PP::true ], [ 'company', '=', $id->{company} ] ], 0, 1, undef)->[0];
	}
	for my $kind (qw(tax cash))
	{
		$id->{account}{$kind} = $self->model('account.account.search',
			[ [ 'name', '=', 'Main ' . ucfirst $kind ], [ 'company', '=', $id->{company} ] ], 0, 1, undef)->[0];
	}
	my $account = $id->{account};
	$step->('create_properties', {
		properties => {
			company                  => $id->{company},
			account_receivable       => $account->{receivable},
			account_payable          => $account->{payable},
			category_account_revenue => $account->{revenue},
			category_account_expense => $account->{expense},
		}
	});
	$self->call("$wizard.delete", $session, $self->context);
}

# Last year, this year and next year, each with its own number sequences.
sub _make_years
{
	my ($self) = @_;
	my $id   = $self->{ids};
	my $now  = $self->_this_year;
	my %type = map { $_->{name} => $_->{id} } @{
		$self->model('ir.sequence.type.search_read',
			[ [ 'name', 'in', [ 'Account Move', 'Invoice' ] ] ], 0, undef, undef, ['name'])
	};

	for my $year ($now - 1 .. $now + 1)
	{
		my $moves = $self->model('ir.sequence.create',
			[ { name => "Moves $year", sequence_type => $type{'Account Move'}, company => $id->{company} } ])->[0];
		my $invoices = $self->model('ir.sequence.strict.create',
			[ { name => "Invoices $year", sequence_type => $type{Invoice}, company => $id->{company},
				prefix => "$year/", padding => 5 } ])->[0];
		my %sequence = map { $_ => $invoices }
		  qw(out_invoice_sequence in_invoice_sequence out_credit_note_sequence in_credit_note_sequence);
		my $created = $self->model('account.fiscalyear.create', [ {
			name               => "$year",
			start_date         => $self->date("$year-01-01"),
			end_date           => $self->date("$year-12-31"),
			company            => $id->{company},
			post_move_sequence => $moves,
			invoice_sequences  => [ [ 'create', [ { company => $id->{company}, %sequence } ] ] ],
		} ]);
		$self->model('account.fiscalyear.create_period', $created);
		$id->{fiscalyear}{$year} = $created->[0];
	}
}

#----------------------------------------------------------------------
# Small things
#----------------------------------------------------------------------

sub _this_year { return (gmtime)[5] + 1900 }

# A literal of this file as characters, since the file is read as bytes.
sub _text { my ($text) = @_; utf8::decode($text); return $text }

1;
